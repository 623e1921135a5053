"""LoRA adapters (PEFT semantics): `y = W x + B A dropout(x) * scale`."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.params import Param, Params, declare

LARGEST_RANK = 16_384  # above the width of every model of today a rank says nothing more

Adapter = dict[str, Any]  # {"layers": {target: {"a": [L, r, in...], "b": [L, out..., r]}}}


@dataclass(frozen=True)
class LoraConfig:
    """Shape of an adapter; defaults are the paper's (section 5.1)."""

    r: int = 32
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rslora: bool = False

    def __post_init__(self):
        if type(self.r) is not int or not 1 <= self.r <= LARGEST_RANK:
            raise ConfigError(
                f"LoRA rank r is {self.r!r}; a number from 1 to {LARGEST_RANK:,} was expected"
            )
        if not (isfinite(self.alpha) and 0 <= self.dropout < 1):
            raise ConfigError(
                f"LoRA alpha is {self.alpha}, dropout {self.dropout}; expected a finite number, "
                "and one from 0 on and below 1"
            )

    @property
    def scale(self) -> float:
        """Of the update: alpha / r, rank-stabilised alpha / sqrt(r) (PEFT's `use_rslora`)."""
        return self.alpha / (sqrt(self.r) if self.rslora else self.r)


def target_kernels(cfg: ModelConfig, targets: Sequence[str]) -> dict[str, Param]:
    """The declared kernels that an adapter changes.

    Raises:
        ConfigError: a target is no linear layer of the decoder.
    """
    layer = declare(cfg)["layers"]
    linear = [name for name, node in layer.items() if isinstance(node, dict)]
    unknown = [name for name in targets if name not in linear]
    if unknown or not targets:
        raise ConfigError(f"LoRA targets {unknown or '(none)'}: choose from {', '.join(linear)}")
    return {name: layer[name]["kernel"] for name in targets}


def init_adapter(cfg: ModelConfig, lora: LoraConfig, key: jax.Array) -> Adapter:
    """A fresh float32 adapter: A uniform as PEFT's kaiming_uniform(sqrt(5)), B zero.

    B = 0 makes step 0 exactly the base model, which the KL reference relies on.
    """
    layers = {}
    for n, (name, kernel) in enumerate(target_kernels(cfg, lora.targets).items()):
        split = len(kernel.shape) - kernel.in_ndim
        outputs, inputs = kernel.shape[:split], kernel.shape[split:]
        bound = 1.0 / sqrt(prod(inputs))
        shape = (cfg.num_layers, lora.r, *inputs)
        a = jax.random.uniform(jax.random.fold_in(key, n), shape, jnp.float32, -bound, bound)
        layers[name] = {"a": a, "b": jnp.zeros((cfg.num_layers, *outputs, lora.r), jnp.float32)}
    return {"layers": layers}


def merge_adapter(params: Params, adapter: Adapter, lora: LoraConfig) -> Params:
    """Parameters with the adapter folded in: `W + B A * scale`, in W's dtype.

    Of a tree that nobody else holds, each kernel is freed before the next one is folded.
    """
    layers, params = dict(params["layers"]), {**params, "layers": None}
    for name, ab in adapter["layers"].items():
        merged = _merge(layers[name]["kernel"], ab["a"], ab["b"], lora.scale)
        layers[name] = {**layers[name], "kernel": jax.block_until_ready(merged)}
    return {**params, "layers": layers}


def _merge(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    flat_a = a.reshape(a.shape[0], a.shape[1], -1)
    flat_b = b.reshape(b.shape[0], -1, b.shape[-1])
    delta = scale * jnp.einsum("lor,lri->loi", flat_b, flat_a, precision="highest")
    return (kernel.astype(jnp.float32) + delta.reshape(kernel.shape)).astype(kernel.dtype)
