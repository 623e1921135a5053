"""The decoder: its facts, its parameters, its forward pass, its adapters."""

from thinksafe_jax.models.attention import ATTENTION_BLOCK, causal_attention
from thinksafe_jax.models.config import ModelConfig, load_config, parse_config
from thinksafe_jax.models.decoder import block, forward, head_kernel, logits, rms_norm
from thinksafe_jax.models.lora import (
    Adapter,
    LoraConfig,
    init_adapter,
    merge_adapter,
    target_kernels,
)
from thinksafe_jax.models.matmul import FEW_ROWS, Contract, contract, contract_few_rows
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

__all__ = [
    "ATTENTION_BLOCK",
    "FEW_ROWS",
    "Adapter",
    "Contract",
    "LoraConfig",
    "ModelConfig",
    "Param",
    "Params",
    "abstract_params",
    "block",
    "causal_attention",
    "contract",
    "contract_few_rows",
    "declare",
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
    "rms_norm",
    "rope_tables",
    "stack_layers",
    "stacked_shape",
    "target_kernels",
    "unstack_layers",
    "walk",
]
