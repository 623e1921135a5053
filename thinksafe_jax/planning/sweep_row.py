"""One row of a sweep: what compiling a model's program for a phase of a mesh says."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax

from thinksafe_jax.errors import EnvironmentFault, ThinkSafeError
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.abstract_programs import (
    Program,
    Sampler,
    decode_program,
    prefill_program,
    train_program,
)
from thinksafe_jax.planning.collectives import total
from thinksafe_jax.planning.compiler import Compiled, compile_program
from thinksafe_jax.planning.devices import compile_devices, is_simulated
from thinksafe_jax.planning.measure import measured_seconds
from thinksafe_jax.planning.memory import Settings, filled_rows, phase_budget
from thinksafe_jax.planning.roofline import Cost, bound_of, decode_cost, prefill_cost, train_cost
from thinksafe_jax.sharding import MeshConfig, Phase, sharding_warnings

PHASES = ("decode", "prefill", "train")
_MOST_SLOTS = 1024
Row = dict[str, Any]


@dataclass(frozen=True)
class SweepSettings:
    """Sizes that all combinations share.

    Attributes:
        prompt: tokens of a prefill.
        slots: rows of a replica; default as many as its cache holds at the mean context.
        sizes: contexts and dtype; of the train step tokens of a sequence, sequences of a pass and
            the adapter.
        measure: time the programs on the devices at hand instead of only compiling them.
    """

    prompt: int = 512
    slots: int | None = None
    sizes: Settings = field(default_factory=Settings)
    measure: bool = False

    @property
    def summary(self) -> dict[str, Any]:
        """What tells rows of different settings apart."""
        sizes, training = self.sizes, self.sizes.training
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
            **({} if sizes.kv_dtype == "model" else {"kv_dtype": sizes.kv_dtype}),
        }


@dataclass(frozen=True)
class Combination:
    """One cell of the sweep: a model, on a mesh, with a rule table, in a phase.

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
    def name(self) -> str:
        """Phase, model, mesh and table in one word."""
        return f"{self.phase}-{self.model}-{self.mesh.name}-{self.table}"

    @property
    def section(self) -> Phase:
        """The phase of the mesh, as the file has it."""
        return self.mesh.train if self.phase == "train" else self.mesh.generate

    @property
    def divided(self) -> Phase:
        """The phase of the mesh, divided for the model."""
        return self.section.for_model(self.cfg)


@dataclass(frozen=True)
class _Candidate:
    """What is compiled for a combination.

    Attributes:
        build: dtype -> the program.
        cost: of one call on one device.
        copies: of the program that run side by side.
    """

    build: Callable[[str], Program]
    cost: Cost
    copies: int


def figures_of(combination: Combination, settings: SweepSettings) -> Row:
    """The columns that are found out, or why nothing is: `status`, and figures or a `reason`."""
    if combination.problem:
        return {"status": "refused", "reason": combination.problem}
    settings = replace(settings, sizes=settings.sizes.capped(combination.cfg))
    budget = phase_budget(
        "train" if combination.phase == "train" else "generate",
        combination.section,
        combination.cfg,
        combination.mesh.topology,
        settings.sizes,
    )
    if budget.problems:
        return {"status": "refused", "reason": "; ".join(budget.problems)}
    if combination.phase != "train" and not budget.fits and settings.slots is None:
        return {
            "status": "too large",
            "reason": f"weights of {budget.bytes['weights']:,} bytes a device leave "
            f"{max(0, budget.free):,}: no room for a row of {settings.sizes.context:,} tokens",
        }
    try:
        return _compiled(combination, settings, budget.pool_tokens)
    except EnvironmentFault as error:
        return {"status": "failed", "reason": str(error)}
    except ThinkSafeError as error:
        return {"status": "refused", "reason": str(error)}
    except Exception as error:  # a compiler's own words; the sweep goes on
        text = " ".join(str(error).split())
        return {"status": "failed", "reason": f"{type(error).__name__}: {text[:500]}"}


def _compiled(combination: Combination, settings: SweepSettings, pool_tokens: int) -> Row:
    sizes = settings.sizes
    devices = _devices(combination, settings)
    if combination.phase == "train":
        candidate = _training(combination, settings, devices)
    else:
        candidate = _sampling(combination, settings, pool_tokens, devices)
    compiled = compile_program(candidate.build, sizes.dtype, combination.name)
    row = _row(combination, candidate, candidate.build(sizes.dtype), compiled)
    if settings.measure:
        seconds = measured_seconds(candidate.build(sizes.dtype), sizes.mean_context)
        rate = candidate.copies * row["tokens"] / seconds
        row |= {"measured_seconds": seconds, "measured_tokens_per_second": rate}
    warnings = sharding_warnings(combination.cfg, combination.divided, sizes.itemsize)
    return row | {"warnings": warnings}


def _devices(combination: Combination, settings: SweepSettings) -> Sequence[Any]:
    if settings.measure:
        return jax.devices()
    replica = None if combination.phase == "train" else combination.divided.of_replica().devices
    return compile_devices(combination.mesh.topology, replica)


def _training(
    combination: Combination, settings: SweepSettings, devices: Sequence[Any]
) -> _Candidate:
    """The train step over the whole mesh."""
    cfg, training = combination.cfg, settings.sizes.training
    phase = combination.divided
    config = replace(training, max_length=min(training.max_length, cfg.max_position_embeddings))
    rows = max(1, config.micro_batch_size // phase.num_shards("batch"))
    cost = train_cost(
        cfg, phase, rows, config.max_length, settings.sizes.dtype, remat=config.remat != "none"
    )

    def build(dtype: str) -> Program:
        return train_program(cfg, combination.section, devices, config, dtype)

    return _Candidate(build, cost, copies=1)


def decode_slots(settings: SweepSettings, pool_tokens: int) -> int:
    """Rows that a replica decodes together.

    Args:
        pool_tokens: that its cache has room for.
    """
    if settings.slots is not None:
        return settings.slots
    return min(_MOST_SLOTS, max(1, filled_rows(pool_tokens, settings.sizes.mean_context)))


def _sampling(
    combination: Combination, settings: SweepSettings, pool_tokens: int, devices: Sequence[Any]
) -> _Candidate:
    """Decode or prefill of one replica; all replicas run it side by side.

    Args:
        pool_tokens: that a replica's cache has room for.
    """
    cfg, sizes, phase = combination.cfg, settings.sizes, combination.divided
    slots = decode_slots(settings, pool_tokens)
    if settings.slots is not None:
        pool_tokens = slots * sizes.context
    simulated = not settings.measure and is_simulated(combination.mesh.topology)
    sampler = Sampler(
        slots, pool_tokens, sizes.context, settings.prompt,
        simulated=simulated, kv_dtype=sizes.kv_dtype,
    )  # fmt: skip
    if combination.phase == "decode":
        program, cost = (
            decode_program,
            decode_cost(cfg, phase, slots, sizes.mean_context, sizes.dtype, sizes.cache_dtype),
        )
    else:
        program, cost = (
            prefill_program,
            prefill_cost(cfg, phase, settings.prompt, sizes.dtype, sizes.cache_dtype),
        )

    def build(dtype: str) -> Program:
        return program(cfg, combination.section, devices, sampler, dtype)

    return _Candidate(build, cost, copies=phase.num_shards("batch"))


def _row(
    combination: Combination, candidate: _Candidate, program: Program, compiled: Compiled
) -> Row:
    topology, cost, copies = combination.mesh.topology, candidate.cost, candidate.copies
    sent = total(compiled.collectives)
    bound = bound_of(cost, sent.wire_bytes, topology, sent.dcn_bytes)
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
        "flops": cost.flops,
        "compiler_flops": compiled.flops,
        "read_bytes": cost.bytes,
        "collective_count": sent.count,
        "collective_bytes": sent.bytes,
        "wire_bytes": sent.wire_bytes,
        "dcn_bytes": sent.dcn_bytes,
        "collectives": {kind: asdict(t) for kind, t in sorted(compiled.collectives.items())},
        "compute_seconds": bound.compute,
        "memory_seconds": bound.memory,
        "network_seconds": bound.network,
        "dcn_seconds": bound.dcn,
        "roofline_seconds": bound.seconds,
        "limit": bound.limit,
        "tokens_per_second": copies * program.tokens / bound.seconds,
        "compile_seconds": round(compiled.seconds, 2),
    }
