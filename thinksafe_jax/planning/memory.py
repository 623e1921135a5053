"""Does a model fit on a mesh: bytes per device of what a phase keeps, and the nearest that does."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import jax
import jax.numpy as jnp

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import LoraConfig, ModelConfig
from thinksafe_jax.planning.roofline import kv_bytes_per_device
from thinksafe_jax.sharding import (
    Phase,
    Tensor,
    Topology,
    adapter_tensors,
    map_optimizer_state,
    parameter_tensors,
    sharding_problems,
)
from thinksafe_jax.training import make_optimizer

USABLE = 0.95  # of a chip's memory; the rest is the runtime's
POOL_SHARE = 0.85  # of what the weights leave, for the KV pool; programs need the rest
_FILLED = 0.95  # of the pool, while rows enough wait
_MOST_CHIPS = 64  # times the mesh's own, in the search for one that fits


@dataclass(frozen=True)
class Settings:
    """What the plan assumes.

    Attributes:
        dtype: of weights and cache; adapter and optimiser are float32.
        lora: the adapter.
        context: tokens of the longest row: prompt and response.
        mean_context: live tokens of a row, averaged over time. A long chain of thought capped at
            16,384 tokens has 5.2k (measured lengths of Qwen3-8B on GPQA).
    """

    dtype: str = "bfloat16"
    lora: LoraConfig = field(default_factory=LoraConfig)
    context: int = 16896
    mean_context: int = 5200

    @property
    def itemsize(self) -> int:
        """Bytes of one weight or cache entry."""
        return jnp.dtype(self.dtype).itemsize

    def capped(self, cfg: ModelConfig) -> Self:
        """With rows no longer than the model takes."""
        context = min(self.context, cfg.max_position_embeddings)
        return replace(self, context=context, mean_context=min(self.mean_context, context))


@dataclass(frozen=True)
class Budget:
    """Memory of one phase; all bytes are per device.

    Attributes:
        problems: why the rules cannot hold the model, or the hosts the replicas; nothing else is
            then filled in.
        bytes: what -> bytes: weights; in training also adapter, gradients and optimizer.
        free: usable bytes that are left; negative where the weights do not fit.
        kv_bytes_per_token, pool_tokens: the cache of one replica, where the phase has one.
        fits: whether it all fits, in generation with the cache of at least one longest row.
    """

    problems: list[str]
    bytes: dict[str, int] = field(default_factory=dict)
    free: int = 0
    kv_bytes_per_token: int = 0
    pool_tokens: int = 0
    fits: bool = False


def filled_rows(pool_tokens: int, mean_context: int) -> int:
    """Rows that decode together in a pool while more wait."""
    return int(_FILLED * pool_tokens / mean_context)


def phase_budget(
    name: str, phase: Phase, cfg: ModelConfig, topology: Topology, settings: Settings
) -> Budget:
    """The budget of a phase called `name`: "train" or "generate".

    Args:
        settings: those of `Settings.capped` for the model.
    """
    strategy = phase.for_model(cfg)
    lora = settings.lora if name == "train" else None
    problems = sharding_problems(cfg, strategy, lora)
    if name == "generate":
        problems += _host_problems(phase, topology)
    if problems:
        return Budget(problems)
    used = _bytes(cfg, strategy, settings, lora)
    free = math.floor(USABLE * topology.hbm_bytes) - sum(used.values())
    if name == "train":
        return Budget([], used, free, fits=free >= 0)
    kv = kv_bytes_per_device(cfg, strategy, settings.itemsize)
    pool = max(0, math.floor(POOL_SHARE * free)) // kv
    return Budget([], used, free, kv, pool, fits=pool >= settings.context)


def _host_problems(phase: Phase, topology: Topology) -> Iterator[str]:
    """Why the hosts cannot drive replicas of their own, see `ModelMesh.for_generation`."""
    try:
        local = math.prod(phase.of_host(topology.hosts).axes.values())
    except ConfigError as error:
        yield str(error)
        return
    if local > topology.chips_per_host:
        yield f"generate: {local} chips a host are asked for; a host has {topology.chips_per_host}"


def _bytes(
    cfg: ModelConfig, strategy: Phase, settings: Settings, lora: LoraConfig | None
) -> dict[str, int]:
    """Bytes per device of what a phase keeps in memory all the time."""
    weights = sum(t.shard_elements(strategy) for t in parameter_tensors(cfg).values())
    used = {"weights": weights * settings.itemsize}
    if lora is None:
        return used
    tensors = adapter_tensors(cfg, lora)
    adapter = 4 * sum(t.shard_elements(strategy) for t in tensors.values())
    optimizer = _optimizer_bytes(tensors, strategy)
    return used | {"adapter": adapter, "gradients": adapter, "optimizer": optimizer}


def _optimizer_bytes(tensors: dict[tuple[str, ...], Tensor], strategy: Phase) -> int:
    """Bytes per device of the optimiser that training makes, from its abstract state."""
    names = [".".join(path) for path in tensors]
    adapter = {
        name: jax.ShapeDtypeStruct(tensor.shape, jnp.float32)
        for name, tensor in zip(names, tensors.values(), strict=True)
    }
    shard = {
        name: tensor.shard_elements(strategy)
        for name, tensor in zip(names, tensors.values(), strict=True)
    }
    sizes = map_optimizer_state(
        make_optimizer(TrainingConfig()),
        adapter,
        shard,
        lambda leaf, own: leaf.dtype.itemsize * (own or math.prod(leaf.shape)),
    )
    return sum(jax.tree.leaves(sizes))


def nearest_axes(
    name: str, phase: Phase, cfg: ModelConfig, topology: Topology, settings: Settings
) -> dict[str, int] | None:
    """Axis sizes that fit, with as few changes as can be; on more hosts only where these do not do.

    Returns:
        Sizes of the axes as the file names them, or None.
    """

    factor = 1
    while factor <= _MOST_CHIPS:
        larger = topology.scaled(factor)
        fitting = [
            axes
            for axes in _factorisations(larger.chips, list(phase.axes))
            if phase_budget(name, phase.with_axes(axes), cfg, larger, settings).fits
        ]
        if fitting:
            return min(fitting, key=lambda axes: _distance(phase.axes, axes))
        factor *= 2
    return None


def _factorisations(number: int, names: list[str]) -> Iterator[dict[str, int]]:
    if len(names) == 1:
        yield {names[0]: number}
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in _factorisations(number // first, names[1:]):
                yield {names[0]: first, **rest}


def _distance(one: dict[str, int], other: dict[str, int]) -> float:
    return sum(abs(math.log2(other[name] / size)) for name, size in one.items())
