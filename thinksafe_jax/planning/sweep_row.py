"""One row of a sweep: what compiling a model's programs for a phase of a mesh says.

decode, drafted, prefill    one program of one replica; all replicas run it side by side
train                       one program over the whole mesh
on-policy                   decode and training in turn, see `sweep_on_policy`
"""

from dataclasses import replace

from thinksafe_jax.errors import EnvironmentFault, ThinkSafeError
from thinksafe_jax.planning.memory import filled_rows, phase_budget
from thinksafe_jax.planning.sweep_on_policy import on_policy_figures
from thinksafe_jax.planning.sweep_programs import (
    Part,
    measured_columns,
    memory_columns,
    sampling_part,
    training_part,
    work_columns,
)
from thinksafe_jax.planning.sweep_settings import ON_POLICY, Combination, Row, SweepSettings
from thinksafe_jax.sharding import sharding_warnings

_MOST_SLOTS = 1024


def figures_of(combination: Combination, settings: SweepSettings) -> Row:
    """The columns that are found out, or why nothing is: `status`, and figures or a `reason`."""
    if combination.problem:
        return {"status": "refused", "reason": combination.problem}
    settings = replace(settings, sizes=settings.sizes.capped(combination.cfg))
    make = {"train": _training, ON_POLICY: on_policy_figures}.get(combination.phase, _sampling)
    try:
        row = make(combination, settings)
    except EnvironmentFault as error:
        return {"status": "failed", "reason": str(error)}
    except ThinkSafeError as error:
        return {"status": "refused", "reason": str(error)}
    except Exception as error:  # a compiler's own words; the sweep goes on
        text = " ".join(str(error).split())
        return {"status": "failed", "reason": f"{type(error).__name__}: {text[:500]}"}
    if row["status"] != "ok":
        return row
    layouts, itemsize = combination.layouts.values(), settings.sizes.itemsize
    warnings = [w for p in layouts for w in sharding_warnings(combination.cfg, p, itemsize)]
    return row | {"warnings": list(dict.fromkeys(warnings))}


def decode_slots(settings: SweepSettings, pool_tokens: int) -> int:
    """Rows that a replica decodes together.

    Args:
        pool_tokens: that its cache has room for.
    """
    if settings.slots is not None:
        return settings.slots
    return min(_MOST_SLOTS, max(1, filled_rows(pool_tokens, settings.sizes.mean_context)))


def _sampling(combination: Combination, settings: SweepSettings) -> Row:
    """Decode, with drafts or without, or prefill of one replica."""
    sizes = settings.sizes
    topology, cfg = combination.mesh.topology, combination.cfg
    budget = phase_budget("generate", combination.section, cfg, topology, sizes)
    if budget.problems:
        return {"status": "refused", "reason": "; ".join(budget.problems)}
    if not budget.fits and settings.slots is None:
        return {
            "status": "too large",
            "reason": f"weights of {budget.bytes['weights']:,} bytes a device leave "
            f"{max(0, budget.free):,}: no room for a row of {sizes.context:,} tokens",
        }
    slots = decode_slots(settings, budget.pool_tokens)
    pool = budget.pool_tokens if settings.slots is None else slots * sizes.context
    part = sampling_part(combination, settings, combination.phase, slots, pool)
    rows = 1 if combination.phase == "prefill" else slots
    return _row(part, combination, settings, combination.divided.num_shards("batch"), rows)


def _training(combination: Combination, settings: SweepSettings) -> Row:
    """The train step over the whole mesh."""
    topology, cfg = combination.mesh.topology, combination.cfg
    budget = phase_budget("train", combination.section, cfg, topology, settings.sizes)
    if budget.problems:
        return {"status": "refused", "reason": "; ".join(budget.problems)}
    part = training_part(combination, settings)
    return _row(part, combination, settings, programs=1, rows=part.program.rows)


def _row(
    part: Part, combination: Combination, settings: SweepSettings, programs: int, rows: int
) -> Row:
    """The columns of one program.

    Args:
        programs: that run side by side.
        rows: of one of them.
    """
    topology, compiled = combination.mesh.topology, part.compiled
    bound, tokens = part.bound(topology), programs * part.program.tokens
    row = {
        "status": "ok",
        "compiler": compiled.compiler,
        "programs": programs,
        "devices": part.program.devices,
        "rows": rows,
        "tokens": part.program.tokens,
        **memory_columns(compiled.arguments, compiled.temporaries, topology),
        **work_columns([part], topology),
        "roofline_seconds": bound.seconds,
        "limit": bound.limit,
        "tokens_per_second": tokens / bound.seconds,
    }
    if settings.measure:
        row |= measured_columns([part], settings, tokens)
    return row
