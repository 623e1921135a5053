"""What a model needs on a mesh, and what is left for the KV cache; nothing is allocated."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.params import parameter_count
from thinksafe_jax.parallel.budget import Budget, Settings, filled_rows, nearest_axes, phase_budget
from thinksafe_jax.parallel.roofline import Roofline, decode_roofline
from thinksafe_jax.parallel.rules import (
    Strategy,
    parameter_tensors,
    partition_spec,
    strategy_warnings,
)
from thinksafe_jax.parallel.strategy import MeshConfig, Phase, Topology


@dataclass(frozen=True)
class ParameterRow:
    """One parameter: bytes are those on each device."""

    name: str
    shape: tuple[int, ...]
    spec: str
    bytes: int


@dataclass(frozen=True)
class PhasePlan:
    """One phase on the mesh.

    Attributes:
        axes: mesh axes, split ones divided.
        rules_hash: digest of axes and rules.
        budget: memory per device.
        slots: rows of the longest context that one replica's cache holds.
        roofline: bound of the decode step; None in training and where nothing fits.
        warnings: what works but costs.
        nearest: axes closest to the file's that fit, where these do not; None where none do.
        parameters: a row for each parameter.
    """

    axes: dict[str, int]
    rules_hash: str
    budget: Budget
    slots: int
    roofline: Roofline | None
    warnings: list[str]
    nearest: dict[str, int] | None
    parameters: list[ParameterRow]


@dataclass(frozen=True)
class Plan:
    """A model on a mesh."""

    model: str
    mesh: str
    parameters: int
    topology: Topology
    settings: Settings
    generate: PhasePlan
    train: PhasePlan

    @property
    def fits(self) -> bool:
        return self.generate.budget.fits and self.train.budget.fits

    def as_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "fits": self.fits}


def make_plan(
    name: str, cfg: ModelConfig, mesh: MeshConfig, settings: Settings | None = None
) -> Plan:
    """The plan of the model `cfg`, called `name`, on a mesh."""
    settings = (settings or Settings()).capped(cfg)
    generate, train = (
        _plan_phase(phase, section, cfg, mesh.topology, settings)
        for phase, section in (("generate", mesh.generate), ("train", mesh.train))
    )
    return Plan(name, mesh.name, parameter_count(cfg), mesh.topology, settings, generate, train)


def _plan_phase(
    name: str, phase: Phase, cfg: ModelConfig, topology: Topology, settings: Settings
) -> PhasePlan:
    strategy = phase.for_model(cfg)
    budget = phase_budget(name, phase, cfg, topology, settings)
    size, mean = settings.itemsize, settings.mean_context
    rows = filled_rows(budget.pool_tokens, mean)
    ok = not budget.problems
    return PhasePlan(
        axes=strategy.axes,
        rules_hash=strategy.hash,
        budget=budget,
        slots=budget.pool_tokens // settings.context,
        roofline=decode_roofline(cfg, strategy, topology, rows, mean, size) if rows else None,
        warnings=strategy_warnings(cfg, strategy, size) if ok else [],
        nearest=None if budget.fits else nearest_axes(name, phase, cfg, topology, settings),
        parameters=list(_parameter_rows(cfg, strategy, size)) if ok else [],
    )


def _parameter_rows(cfg: ModelConfig, strategy: Strategy, size: int) -> Iterator[ParameterRow]:
    for path, tensor in parameter_tensors(cfg).items():
        spec = partition_spec(tensor.axes, strategy.rules)
        text = ", ".join("x".join(p) if isinstance(p, tuple) else str(p or "-") for p in spec)
        elements = tensor.shard_elements(strategy)
        yield ParameterRow(".".join(path), tensor.shape, text, elements * size)
