"""Does a model fit on a mesh: bytes per device of what a phase keeps, and the nearest that does."""

import math
from collections.abc import Iterator, Mapping
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
from thinksafe_jax.training import lora_config, make_optimizer

USABLE = 0.95  # of a chip's memory; the rest is the runtime's
POOL_SHARE = 0.85  # of what the weights leave, for the KV pool; programs need the rest
_FILLED = 0.95  # of the pool, while rows enough wait
_FLOAT32 = 4  # bytes
_MOST_CHIPS = 64  # times the mesh's own, in the search for one that fits
Tensors = Mapping[tuple[str, ...], Tensor]  # by path


def cache_dtype(kv_dtype: str, dtype: str) -> str:
    """In which keys and values are stored: the dtype of the weights unless `kv_dtype` names one."""
    return dtype if kv_dtype == "model" else kv_dtype


@dataclass(frozen=True)
class Settings:
    """What the plan assumes.

    Attributes:
        dtype: of weights; what is trained, and its optimiser, is float32.
        training: the recipe's section: what is trained, and by which optimiser.
        context: tokens of the longest row: prompt and response.
        mean_context: live tokens of a row, averaged over time. A long chain of thought capped at
            16,384 tokens has 5.2k (measured lengths of Qwen3-8B on GPQA).
        kv_dtype: of keys and values, as `EngineConfig.kv_dtype`.
    """

    dtype: str = "bfloat16"
    training: TrainingConfig = field(default_factory=TrainingConfig)
    context: int = 16896
    mean_context: int = 5200
    kv_dtype: str = "model"

    @property
    def itemsize(self) -> int:
        """Bytes of one weight."""
        return jnp.dtype(self.dtype).itemsize

    @property
    def cache_dtype(self) -> str:
        """In which keys and values are stored."""
        return cache_dtype(self.kv_dtype, self.dtype)

    @property
    def lora(self) -> LoraConfig | None:
        """The adapter; None where the weights themselves are trained."""
        return None if self.training.full_finetune else lora_config(self.training)

    def capped(self, cfg: ModelConfig) -> Self:
        """The settings with rows no longer than the model takes."""
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
        phase: as the file has it, or divided for the model.
        settings: those of `Settings.capped` for the model.
    """
    phase, trains = phase.for_model(cfg), name == "train"
    problems = sharding_problems(
        cfg, phase, settings.lora if trains else None, cuts_sequences=trains
    )
    if not trains:
        problems += _host_problems(phase, topology)
    if problems:
        return Budget(problems)
    used = _training_bytes(cfg, phase, settings) if trains else _weight_bytes(cfg, phase, settings)
    free = math.floor(USABLE * topology.hbm_bytes) - sum(used.values())
    if trains:
        return Budget([], used, free, fits=free >= 0)
    kv = kv_bytes_per_device(cfg, phase, settings.cache_dtype)
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


def _weight_bytes(cfg: ModelConfig, phase: Phase, settings: Settings) -> dict[str, int]:
    """Bytes per device of the weights."""
    return {"weights": settings.itemsize * _elements(parameter_tensors(cfg), phase)}


def _training_bytes(cfg: ModelConfig, phase: Phase, settings: Settings) -> dict[str, int]:
    """Bytes per device of what training keeps in memory all the time."""
    lora = settings.lora
    trained = parameter_tensors(cfg) if lora is None else adapter_tensors(cfg, lora)
    size = _FLOAT32 * _elements(trained, phase)
    if lora is None:
        kept = {"weights": size}
    else:
        kept = {**_weight_bytes(cfg, phase, settings), "adapter": size}
    optimizer = _optimizer_bytes(trained, phase, settings.training)
    return {**kept, "gradients": size, "optimizer": optimizer}


def _elements(tensors: Tensors, phase: Phase) -> int:
    """Elements that one device holds of all tensors."""
    return sum(tensor.shard_elements(phase) for tensor in tensors.values())


def _optimizer_bytes(trained: Tensors, phase: Phase, config: TrainingConfig) -> int:
    """Bytes per device of the recipe's optimiser, from its abstract state."""
    tensors = {".".join(path): tensor for path, tensor in trained.items()}
    shapes = {name: jax.ShapeDtypeStruct(t.shape, jnp.float32) for name, t in tensors.items()}
    elements = {name: tensor.shard_elements(phase) for name, tensor in tensors.items()}

    def size(leaf: jax.ShapeDtypeStruct, shard: int | None) -> int:
        return leaf.dtype.itemsize * (math.prod(leaf.shape) if shard is None else shard)

    sizes = map_optimizer_state(make_optimizer(config), shapes, elements, size)
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
            for axes in factorisations(larger.chips, list(phase.axes))
            if phase_budget(name, phase.with_axes(axes), cfg, larger, settings).fits
        ]
        if fitting:
            return min(fitting, key=lambda axes: _distance(phase.axes, axes))
        factor *= 2
    return None


def factorisations(number: int, names: list[str]) -> Iterator[dict[str, int]]:
    """Every way of writing a number as a product with a factor for each name."""
    if len(names) == 1:
        yield {names[0]: number}
        return
    for first in _divisors(number):
        for rest in factorisations(number // first, names[1:]):
            yield {names[0]: first, **rest}


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return [*small, *(number // n for n in reversed(small) if n * n != number)]


def _distance(axes: dict[str, int], others: dict[str, int]) -> float:
    return sum(abs(math.log2(others[name] / size)) for name, size in axes.items())
