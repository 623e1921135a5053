"""The decoder: its facts, its parameters, its forward pass, its adapters."""

from thinksafe_jax.models.attention import ATTENTION_BLOCK, causal_attention
from thinksafe_jax.models.attention_request import (
    AttentionRequest,
    Implementation,
    first_to_run,
    refusals,
)
from thinksafe_jax.models.config import ModelConfig, load_config, parse_config
from thinksafe_jax.models.decoder import block, forward, head_kernel, logits, rms_norm
from thinksafe_jax.models.lora import (
    Adapter,
    LoraConfig,
    UnstackedAdapter,
    abstract_adapter,
    init_adapter,
    merge_adapter,
    target_kernels,
    unstack_adapter,
)
from thinksafe_jax.models.matmul import FEW_ROWS, Matmul, few_rows_matmul, plain_matmul
from thinksafe_jax.models.params import (
    Param,
    Params,
    abstract_params,
    declare,
    init_params,
    map_params,
    parameter_count,
    stack_layers,
    stacked_shape,
    unstack_layers,
    walk,
)
from thinksafe_jax.models.rope import rope_tables
from thinksafe_jax.models.triton import compiler_params, float32_dot, triton_refusal

__all__ = [
    "ATTENTION_BLOCK",
    "FEW_ROWS",
    "Adapter",
    "AttentionRequest",
    "Implementation",
    "LoraConfig",
    "Matmul",
    "ModelConfig",
    "Param",
    "Params",
    "UnstackedAdapter",
    "abstract_adapter",
    "abstract_params",
    "block",
    "causal_attention",
    "compiler_params",
    "declare",
    "few_rows_matmul",
    "first_to_run",
    "float32_dot",
    "forward",
    "head_kernel",
    "init_adapter",
    "init_params",
    "load_config",
    "logits",
    "map_params",
    "merge_adapter",
    "parameter_count",
    "parse_config",
    "plain_matmul",
    "refusals",
    "rms_norm",
    "rope_tables",
    "stack_layers",
    "stacked_shape",
    "target_kernels",
    "triton_refusal",
    "unstack_adapter",
    "unstack_layers",
    "walk",
]
