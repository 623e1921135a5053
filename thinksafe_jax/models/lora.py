"""LoRA adapters (PEFT semantics): `y = W x + B A dropout(x) * scale`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, prod, sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thinksafe_jax.errors import ConfigError, quoted
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.matmul import Matmul, plain_matmul
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
                f"LoRA rank r is {quoted(self.r)}; a number from 1 to {LARGEST_RANK:,} was expected"
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


class LayerAdapter(NamedTuple):
    """The adapter of one layer, and how it is applied.

    Attributes:
        weights: projection -> its low-rank arrays "a" `[r, in...]` and "b" `[out..., r]`.
        lora: rank, scale, targets, dropout.
        key: dropout is on when given.
    """

    weights: dict[str, dict[str, jax.Array]]
    lora: LoraConfig
    key: jax.Array | None = None

    def delta(
        self, name: str, x: jax.Array, in_ndim: int, matmul: Matmul = plain_matmul
    ) -> jax.Array | None:
        """What the adapter adds to the projection `name` of `x`; None where it adds nothing."""
        ab = self.weights.get(name)
        if ab is None:
            return None
        lora = self.lora
        if self.key is not None and lora.dropout > 0:
            key = jax.random.fold_in(self.key, lora.targets.index(name))
            keep = jax.random.bernoulli(key, 1.0 - lora.dropout, x.shape)
            x = jnp.where(keep, x / (1.0 - lora.dropout), jnp.zeros_like(x))
        low_rank = matmul(x, ab["a"].astype(x.dtype), in_ndim)
        return lora.scale * matmul(low_rank, ab["b"].astype(x.dtype), 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UnstackedAdapter:
    """An adapter with its layers apart: the form decode runs on, as `unstack_layers` of the base.

    Attributes:
        layers: one entry a layer: projection -> "a" `[r, in...]` and "b" `[out..., r]`.
        lora: rank, scale and targets; static, so a program is compiled for them.
    """

    layers: tuple[dict[str, dict[str, jax.Array]], ...]
    lora: LoraConfig = field(metadata={"static": True})

    def layer(self, number: int) -> LayerAdapter:
        """The adapter of one layer, without dropout."""
        return LayerAdapter(self.layers[number], self.lora)


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


def abstract_adapter(cfg: ModelConfig, lora: LoraConfig) -> Adapter:
    """Shapes of a float32 adapter; nothing is allocated."""
    layers = {}
    for name, kernel in target_kernels(cfg, lora.targets).items():
        split = len(kernel.shape) - kernel.in_ndim
        a = (cfg.num_layers, lora.r, *kernel.shape[split:])
        b = (cfg.num_layers, *kernel.shape[:split], lora.r)
        layers[name] = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in (("a", a), ("b", b))}
    return {"layers": layers}


def init_adapter(cfg: ModelConfig, lora: LoraConfig, key: jax.Array) -> Adapter:
    """A fresh float32 adapter: A uniform as PEFT's kaiming_uniform(sqrt(5)), B zero.

    B = 0 makes step 0 exactly the base model, which the KL reference relies on.
    """
    layers = {}
    for n, (name, ab) in enumerate(abstract_adapter(cfg, lora)["layers"].items()):
        a, b = ab["a"], ab["b"]
        bound = 1.0 / sqrt(prod(a.shape[2:]))
        values = jax.random.uniform(jax.random.fold_in(key, n), a.shape, a.dtype, -bound, bound)
        layers[name] = {"a": values, "b": jnp.zeros(b.shape, b.dtype)}
    return {"layers": layers}


def unstack_adapter(adapter: Adapter, lora: LoraConfig, dtype: Any) -> UnstackedAdapter:
    """The same adapter with its layers apart.

    Args:
        adapter: arrays `[L, ...]`.
        dtype: of the result: the activations' own, in which `LayerAdapter` multiplies anyway.
    """
    whole = jax.tree.map(lambda x: x.astype(dtype), adapter["layers"])
    return UnstackedAdapter(split_layers(whole), lora)


def split_layers(layers: Any) -> tuple[Any, ...]:
    """A tree of arrays `[L, ...]` as L trees, inside a program.

    Its gradient puts the layers' own together at once, where that of indexing adds up L arrays
    of all layers.
    """
    leaves, tree = jax.tree.flatten(layers)
    depth = leaves[0].shape[0]
    parts = [jax.lax.split(leaf, (1,) * depth) for leaf in leaves]
    return tuple(tree.unflatten([part[n][0] for part in parts]) for n in range(depth))


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
