"""The decoder: its facts, its parameters, its forward pass, its adapters."""

from thinksafe_jax.models.config import ModelConfig, load_config, parse_config
from thinksafe_jax.models.decoder import forward, head_kernel, logits
from thinksafe_jax.models.lora import Adapter, LoraConfig, init_adapter, merge_adapter
from thinksafe_jax.models.module import CausalLM
from thinksafe_jax.models.params import (
    Params,
    abstract_params,
    declare,
    init_params,
    parameter_count,
    stack_layers,
    unstack_layers,
)

__all__ = [
    "Adapter",
    "CausalLM",
    "LoraConfig",
    "ModelConfig",
    "Params",
    "abstract_params",
    "declare",
    "forward",
    "head_kernel",
    "init_adapter",
    "init_params",
    "load_config",
    "logits",
    "merge_adapter",
    "parameter_count",
    "parse_config",
    "stack_layers",
    "unstack_layers",
]
