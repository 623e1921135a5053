"""Models x meshes x rule tables: what compiling each for every phase says, one row each.

A row stands by itself (model, mesh, digest of the rule table, phase, compiler, sizes), so that
files of several sweeps can be joined. A combination that cannot be is a row with the reason.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError, ThinkSafeError
from thinksafe_jax.machine import machine
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.abstract_programs import (
    Compiled,
    Program,
    Sampler,
    compile_program,
    decode_program,
    prefill_program,
    train_program,
)
from thinksafe_jax.planning.collectives import total
from thinksafe_jax.planning.devices import compile_devices, has_compiler, is_simulated
from thinksafe_jax.planning.measure import measured_seconds
from thinksafe_jax.planning.memory import Settings, filled_rows, phase_budget
from thinksafe_jax.planning.roofline import (
    Bound,
    Work,
    bound_of,
    decode_work,
    prefill_work,
    train_work,
)
from thinksafe_jax.sharding import MeshConfig, Phase, sharding_warnings
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.training import lora_config

PHASES = ("decode", "prefill", "train")
_MOST_SLOTS = 1024
Row = dict[str, Any]


@dataclass(frozen=True)
class SweepSettings:
    """Sizes that all combinations share.

    Attributes:
        prompt: tokens of a prefill.
        slots: rows of a replica; default as many as its cache holds at the mean context.
        training: of the train step: tokens of a sequence, sequences of a pass, adapter.
        sizes: contexts and dtype.
        measure: time the programs on the devices at hand instead of only compiling them.
    """

    prompt: int = 512
    slots: int | None = None
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(micro_batch_size=2))
    sizes: Settings = field(default_factory=Settings)
    measure: bool = False

    @property
    def summary(self) -> dict[str, Any]:
        """What tells rows of different settings apart."""
        sizes, training = self.sizes, self.training
        return {
            "dtype": sizes.dtype,
            "prompt": self.prompt,
            "slots": self.slots,
            "context": sizes.context,
            "mean_context": sizes.mean_context,
            "train_length": training.max_length,
            "micro_batch_size": training.micro_batch_size,
            "remat": training.remat,
            "lora": f"r{training.lora_r} {','.join(training.lora_targets)}",
        }


@dataclass(frozen=True)
class Combination:
    """One cell of the sweep.

    Attributes:
        table: name of the rule table: "own" is the mesh file's.
        mesh: the topology, with that table.
        problem: why the table cannot be put on this mesh; `mesh` then has its own.
    """

    model: str
    cfg: ModelConfig
    table: str
    mesh: MeshConfig
    phase: str
    problem: str = ""

    @property
    def section(self) -> Phase:
        return self.mesh.train if self.phase == "train" else self.mesh.generate


def sweep(
    combinations: Sequence[Combination],
    settings: SweepSettings,
    out: Path | None,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Every combination's row; those that stand in `out` already are kept.

    Args:
        out: JSON file, written again after every row: {machine, settings, rows}.
        report: called with each row as it is done.

    Raises:
        InputError: `out` is no file of a sweep.
    """
    rows = read_rows(out)
    done = {_key(row) for row in rows if row["status"] != "failed"}
    rows = [row for row in rows if row["status"] != "failed"]
    for one in combinations:
        own = _identity(one, settings)
        if _key(own) in done:
            report(next(row for row in rows if _key(row) == _key(own)))
            continue
        rows.append({**own, **_figures(one, settings)})
        jax.clear_caches()
        if out is not None:
            content = {"machine": machine(), "settings": settings.summary, "rows": rows}
            atomic_write(out, json.dumps(content, indent=1) + "\n")
        report(rows[-1])
    return rows


def read_rows(file: Path | None) -> list[Row]:
    """Rows of a file that `sweep` has written; none where there is no file.

    Raises:
        InputError: it is something else.
    """
    if file is None or not file.exists():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        if not all(_key(row) and row["status"] for row in rows):
            raise KeyError("status")
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: no result of sweep-sharding; give another --json") from None
    return rows


def _identity(one: Combination, settings: SweepSettings) -> Row:
    topology = one.mesh.topology
    strategy = one.section.for_model(one.cfg)
    return {
        "model": one.model,
        "mesh": one.mesh.name,
        "chip": topology.chip,
        "chips": topology.chips,
        "table": one.table,
        "rules_hash": "" if one.problem else strategy.hash,
        "axes": {} if one.problem else strategy.axes,
        "phase": one.phase,
        "compiled_for": topology.chip if has_compiler(topology) else "CPU",
        "settings": settings.summary,
        "measured": settings.measure,
    }


def _key(row: Row) -> str:
    names = (
        "model", "mesh", "table", "rules_hash", "phase", "compiled_for", "settings", "measured",
    )  # fmt: skip
    return json.dumps([row[name] for name in names], sort_keys=True)


def _figures(one: Combination, settings: SweepSettings) -> Row:
    """Everything that is found out, or why nothing is."""
    if one.problem:
        return {"status": "refused", "reason": one.problem}
    strategy = one.section.for_model(one.cfg)
    settings = replace(settings, sizes=settings.sizes.capped(one.cfg))
    budget = phase_budget(
        "train" if one.phase == "train" else "generate",
        one.section,
        one.cfg,
        one.mesh.topology,
        replace(settings.sizes, lora=lora_config(settings.training)),
    )
    if budget.problems:
        return {"status": "refused", "reason": "; ".join(budget.problems)}
    if one.phase != "train" and not budget.fits and settings.slots is None:
        return {
            "status": "too large",
            "reason": f"weights of {budget.bytes['weights']:,} bytes a device leave "
            f"{max(0, budget.free):,}: no room for a row of {settings.sizes.context:,} tokens",
        }
    try:
        devices = _devices(one.mesh, settings)
        build, work, count = _program(one, strategy, settings, budget.pool_tokens, devices)
        compiled = compile_program(build, settings.sizes.dtype)
        figures = _row_of(one, strategy, settings, build(settings.sizes.dtype), compiled, work)
        if settings.measure:
            seconds = measured_seconds(build(settings.sizes.dtype), settings.sizes.mean_context)
            rate = count * figures["tokens"] / seconds
            figures |= {"measured_seconds": seconds, "measured_tokens_per_second": rate}
        return figures | {"warnings": sharding_warnings(one.cfg, strategy, settings.sizes.itemsize)}
    except EnvironmentFault as error:
        return {"status": "failed", "reason": str(error)}
    except ThinkSafeError as error:
        return {"status": "refused", "reason": str(error)}
    except Exception as error:  # a compiler's own words; the sweep goes on
        text = " ".join(str(error).split())
        return {"status": "failed", "reason": f"{type(error).__name__}: {text[:500]}"}


def _devices(mesh: MeshConfig, settings: SweepSettings) -> Sequence[Any]:
    return jax.devices() if settings.measure else compile_devices(mesh.topology)


Built = tuple[Callable[[str], Program], Work, int]


def _program(
    one: Combination,
    strategy: Phase,
    settings: SweepSettings,
    pool_tokens: int,
    devices: Sequence[Any],
) -> Built:
    """How to build it, the work of one call on one device, and how many run side by side."""
    cfg, sizes, size = one.cfg, settings.sizes, settings.sizes.itemsize
    section = one.section
    if one.phase == "train":
        length = min(settings.training.max_length, cfg.max_position_embeddings)
        config = replace(settings.training, max_length=length)
        rows = max(1, config.micro_batch_size // strategy.num_shards("batch"))
        again = config.remat != "none"
        work = train_work(cfg, strategy, rows, length, size, again=again)
        return lambda dtype: train_program(cfg, section, devices, config, dtype), work, 1
    mean, replicas = sizes.mean_context, strategy.num_shards("batch")
    slots = settings.slots or min(_MOST_SLOTS, max(1, filled_rows(pool_tokens, mean)))
    pool = pool_tokens if settings.slots is None else slots * sizes.context
    simulated = not settings.measure and is_simulated(one.mesh.topology)
    sampler = Sampler(slots, pool, sizes.context, settings.prompt, simulated=simulated)
    if one.phase == "decode":
        work = decode_work(cfg, strategy, slots, mean, size)
        return lambda dtype: decode_program(cfg, section, devices, sampler, dtype), work, replicas
    work = prefill_work(cfg, strategy, settings.prompt, size)
    return lambda dtype: prefill_program(cfg, section, devices, sampler, dtype), work, replicas


def _row_of(
    one: Combination,
    strategy: Phase,
    settings: SweepSettings,
    program: Program,
    compiled: Compiled,
    work: Work,
) -> Row:
    topology = one.mesh.topology
    sent = total(compiled.collectives)
    bound: Bound = bound_of(work, sent.wire_bytes, topology)
    copies = 1 if one.phase == "train" else strategy.num_shards("batch")
    return {
        "status": "ok",
        "compiler": compiled.compiler,
        "programs": copies,
        "devices": program.devices,
        "rows": program.rows,
        "tokens": program.tokens,
        "argument_bytes": compiled.arguments,
        "temporary_bytes": compiled.temporaries,
        "peak_bytes": compiled.peak,
        "fits": compiled.peak <= topology.hbm_bytes,
        "flops": work.flops,
        "compiler_flops": compiled.flops,
        "read_bytes": work.bytes,
        "collective_count": sent.count,
        "collective_bytes": sent.bytes,
        "wire_bytes": sent.wire_bytes,
        "collectives": {kind: asdict(t) for kind, t in sorted(compiled.collectives.items())},
        "compute_seconds": bound.compute,
        "memory_seconds": bound.memory,
        "network_seconds": bound.network,
        "roofline_seconds": bound.seconds,
        "limit": bound.limit,
        "tokens_per_second": copies * program.tokens / bound.seconds,
        "compile_seconds": round(compiled.seconds, 2),
    }


def combinations_of(
    models: Sequence[tuple[str, ModelConfig]],
    meshes: Sequence[MeshConfig],
    tables: Sequence[tuple[str, Callable[[MeshConfig], MeshConfig]]],
    phases: Sequence[str] = PHASES,
) -> Iterator[Combination]:
    """Every model on every mesh with every table that differs from those before."""
    for mesh in meshes:
        for model, cfg in models:
            seen = set()
            for one in _with_tables(model, cfg, mesh, tables, phases):
                mark = (one.phase, one.problem or one.section.for_model(cfg).hash)
                if mark not in seen:
                    seen.add(mark)
                    yield one


def _with_tables(
    model: str,
    cfg: ModelConfig,
    mesh: MeshConfig,
    tables: Sequence[tuple[str, Callable[[MeshConfig], MeshConfig]]],
    phases: Sequence[str],
) -> Iterator[Combination]:
    for table, put_on in tables:
        try:
            own, problem = put_on(mesh), ""
        except ConfigError as error:
            own, problem = mesh, str(error)
        for phase in phases:
            yield Combination(model, cfg, table, own, phase, problem)
