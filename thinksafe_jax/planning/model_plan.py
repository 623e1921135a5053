"""What a model needs on a mesh, and what is left for the KV cache; nothing is allocated."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import ModelConfig, parameter_count
from thinksafe_jax.planning.abstract_programs import Program, train_program
from thinksafe_jax.planning.base_layouts import base_layouts
from thinksafe_jax.planning.compiler import Compiled, compile_program
from thinksafe_jax.planning.devices import compile_devices
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import (
    POOL_SHARE,
    USABLE,
    Budget,
    Settings,
    filled_rows,
    nearest_axes,
    phase_budget,
)
from thinksafe_jax.planning.roofline import (
    BOUND,
    FORMULAS,
    SYMBOLS,
    Bound,
    Roofline,
    decode_roofline,
)
from thinksafe_jax.sharding import (
    MeshConfig,
    Phase,
    Topology,
    load_mesh,
    parameter_tensors,
    partition_spec,
    sharding_warnings,
)
from thinksafe_jax.storage import atomic_write


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
        lora = self.settings.lora
        settings = {
            "dtype": self.settings.dtype,
            "lora": lora and asdict(lora),
            "context": self.settings.context,
            "mean_context": self.settings.mean_context,
        }
        return {**asdict(self), "settings": settings, "fits": self.fits}


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
    divided = phase.for_model(cfg)
    budget = phase_budget(name, phase, cfg, topology, settings)
    size, mean = settings.itemsize, settings.mean_context
    rows = filled_rows(budget.pool_tokens, mean)
    ok = not budget.problems
    return PhasePlan(
        axes=divided.axes,
        rules_hash=divided.hash,
        budget=budget,
        slots=budget.pool_tokens // settings.context,
        roofline=decode_roofline(
            cfg, divided, topology, rows, mean, settings.dtype, settings.cache_dtype
        )
        if rows
        else None,
        warnings=sharding_warnings(cfg, divided, size) if ok else [],
        nearest=None if budget.fits else nearest_axes(name, phase, cfg, topology, settings),
        parameters=list(_parameter_rows(cfg, divided, size)) if ok else [],
    )


def _parameter_rows(cfg: ModelConfig, phase: Phase, size: int) -> Iterator[ParameterRow]:
    for path, tensor in parameter_tensors(cfg).items():
        spec = partition_spec(tensor.axes, phase.rules)
        text = ", ".join("x".join(p) if isinstance(p, tuple) else str(p or "-") for p in spec)
        elements = tensor.shard_elements(phase)
        yield ParameterRow(".".join(path), tensor.shape, text, elements * size)


PLANNED = TrainingConfig(micro_batch_size=2)  # as the recipes of the paper's models


def print_plan(
    model: str, mesh: str, *, parameters: bool, json_out: Path | None, compiled: bool = False
) -> bool:
    """The command `thinksafe plan`: prints the plan, writes it as JSON too where asked.

    Args:
        model: see `find_model`.
        mesh: see `load_mesh`.
        parameters: list every parameter.
        json_out: a file; its folder exists.
        compiled: compile the training step and add what it needs.

    Returns:
        Whether the model fits.
    """
    mesh_config = load_mesh(mesh)  # its mistakes need no model, which may have to be downloaded
    name, cfg = find_model(model)
    plan = make_plan(name, cfg, mesh_config)
    memory = _step_memory(name, cfg, mesh_config) if compiled else None
    if json_out is not None:
        step = {} if memory is None else {"compiled_step": asdict(memory[1])}
        atomic_write(json_out, json.dumps(plan.as_json() | step, indent=1) + "\n")
    print(plan_text(plan, parameters))
    if plan.settings.lora and not plan.train.budget.problems + plan.generate.budget.problems:
        print(f"\non-policy  {base_layouts(cfg, mesh_config, plan.settings.lora)}")
    if memory is None:
        return plan.fits
    print("\n".join(_step_lines(*memory, plan)))
    return plan.fits and memory[1].peak <= plan.topology.hbm_bytes


def _step_memory(name: str, cfg: ModelConfig, mesh: MeshConfig) -> tuple[Program, Compiled]:
    devices = compile_devices(mesh.topology)

    def build(dtype: str) -> Program:
        return train_program(cfg, mesh.train, devices, PLANNED, dtype)

    compiled = compile_program(build, "bfloat16", f"train-step-{name}-{mesh.name}")
    return build("bfloat16"), compiled


def plan_text(plan: Plan, parameters: bool = False) -> str:
    """Several lines for a terminal; with `parameters` also a row for each of them."""
    topology = plan.topology
    lines = [
        f"{plan.model}: {plan.parameters:,} parameters, {plan.settings.dtype}",
        f"{plan.mesh}: {machine_text(topology)}, "
        f"{gb(topology.hbm_bytes)} each, of which {USABLE:.0%} are used",
    ]
    for name, phase in (("generate", plan.generate), ("train", plan.train)):
        lines += ["", *_phase_lines(name, phase, plan)]
        if parameters and phase.parameters:
            lines += ["", *parameter_lines(phase)]
    return "\n".join(lines)


def _phase_lines(name: str, phase: PhasePlan, plan: Plan) -> Iterator[str]:
    budget = phase.budget
    sizes = _sizes(phase.axes)
    yield f"{name}  ({sizes}; rules {phase.rules_hash})"
    yield from (f"  does not go: {problem}" for problem in budget.problems)
    if not budget.problems:
        yield "  per device"
        yield from (f"    {what:<12}{gb(size):>12}" for what, size in budget.bytes.items())
        yield f"    {'left':<12}{gb(budget.free):>12}"
        if name == "train":
            yield "    activations and the loss come on top; --compile reads them from the program"
        else:
            yield from _pool_lines(phase, plan)
    yield from (f"  warning: {text}" for text in phase.warnings)
    if not budget.fits:
        yield "  " + _advice(name, phase, plan)


def _step_lines(program: Program, memory: Compiled, plan: Plan) -> Iterator[str]:
    sequences, length = program.rows, program.tokens // program.rows
    hbm = plan.topology.hbm_bytes
    compiler = f"compiled for {memory.compiler}"
    yield f"  the LoRA step, {compiler}, {sequences} x {length:,} tokens a pass"
    yield f"    {'arguments':<12}{gb(memory.arguments):>12}"
    yield f"    {'temporaries':<12}{gb(memory.temporaries):>12}"
    verdict = "fits" if memory.peak <= hbm else "does not fit"
    yield f"    {'peak':<12}{gb(memory.peak):>12}  {verdict} in {gb(hbm)}"


def _pool_lines(phase: PhasePlan, plan: Plan) -> Iterator[str]:
    budget, settings = phase.budget, plan.settings
    yield (
        f"    KV cache: {budget.kv_bytes_per_token:,} bytes a token; {POOL_SHARE:.0%} of what is "
        f"left holds {budget.pool_tokens:,} tokens in each replica"
    )
    yield (
        f"    = {phase.slots} rows of {settings.context:,} tokens, or "
        f"{budget.pool_tokens // settings.mean_context} at the mean of {settings.mean_context:,}"
    )
    if phase.roofline:
        yield from _roofline_lines(phase.roofline, settings.mean_context)


def _roofline_lines(roofline: Roofline, mean_context: int) -> Iterator[str]:
    yield (
        f"  decode at most {roofline.tokens_per_second:,.0f} tokens/s: {roofline.replicas} "
        f"replica(s) x {roofline.rows} rows at a context of {mean_context:,}"
    )
    yield f"    {bound_text(roofline.bound)}"
    if roofline.all_reduce_bytes:
        yield f"    all-reduces of {gb(roofline.all_reduce_bytes)} a step and device"
    lines = (BOUND, f"decode: {FORMULAS['decode']}", *SYMBOLS.splitlines())
    yield from (f"    {line}" for line in lines)


def _advice(name: str, phase: PhasePlan, plan: Plan) -> str:
    if phase.nearest is None:
        text = f"does not fit, and no size of these axes does on {plan.topology.chip}"
        most = f"; a replica has at most a host's {plan.topology.chips_per_host} chips"
        return text + (most if name == "generate" else "")
    chips = math.prod(phase.nearest.values())
    machine = "these chips" if chips == plan.topology.chips else f"{chips} chips"
    budget, what = phase.budget, "does not fit"
    if not budget.problems and budget.free >= 0:
        what = f"the weights fit, the cache of one row of {plan.settings.context:,} tokens does not"
    return f"{what}; the nearest that does, on {machine}: {name}.axes: {_sizes(phase.nearest)}"


def parameter_lines(phase: PhasePlan) -> Iterator[str]:
    """A table of the parameters with a head."""
    table = [("parameter", "shape", "mesh axes", "bytes a device")]
    table += [
        (row.name, "x".join(map(str, row.shape)), row.spec, f"{row.bytes:,}")
        for row in phase.parameters
    ]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    for name, shape, spec, size in table:
        yield (
            f"  {name:<{widths[0]}}  {shape:<{widths[1]}}  {spec:<{widths[2]}}  {size:>{widths[3]}}"
        )


def _sizes(axes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in axes.items())


def bound_text(bound: Bound) -> str:
    """One line: the bound of a step, what it is bound by, and its three parts."""
    parts = [("compute", bound.compute), ("memory", bound.memory), ("network", bound.network)]
    parts += [("dcn", bound.dcn)] if bound.dcn else []
    shown = ", ".join(f"{name} {1e3 * seconds:,.2f}" for name, seconds in parts)
    return f"at least {1e3 * bound.seconds:,.2f} ms a step, {bound.limit} bound ({shown})"


def machine_text(topology: Topology) -> str:
    """Chips, hosts and slices, as "16 x TPU v5e on 4 host(s)"."""
    slices = f" in {topology.slices} slices" if topology.slices > 1 else ""
    return f"{topology.chips:,} x {topology.chip} on {topology.hosts} host(s){slices}"


def gb(size: float) -> str:
    """Bytes in GB of 10^9."""
    return f"{size / 1e9:,.3f} GB"
