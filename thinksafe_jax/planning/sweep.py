"""Models x meshes x rule tables: what compiling each for every phase says, one row each.

A row stands by itself (model, mesh, digest of the rule table, phase, compiler, sizes), so that
files of several sweeps can be joined. A combination that cannot be is a row with the reason.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax

from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.machine import machine, tpu_compiler_flags
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.devices import has_compiler
from thinksafe_jax.planning.sweep_row import figures_of
from thinksafe_jax.planning.sweep_settings import (
    USUAL_PHASES,
    Combination,
    Row,
    SweepSettings,
)
from thinksafe_jax.sharding import MeshConfig, Topology, chip_of_device
from thinksafe_jax.storage import atomic_write

Table = tuple[str, Callable[[MeshConfig], MeshConfig]]  # its name, and what puts it on a mesh


def sweep(
    combinations: Iterable[Combination],
    settings: SweepSettings,
    out: Path | None,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Every combination's row; those that stand in `out` already are kept.

    Args:
        combinations: each is asked for when the row before has been reported.
        out: JSON file, written again after every row: {machine, settings, rows}.
        report: called with each row as it is done.

    Raises:
        InputError: `out` is no file of a sweep.
    """
    rows = read_rows(out)
    done = {_key(row) for row in rows if row["status"] != "failed"}
    rows = [row for row in rows if row["status"] != "failed"]
    for combination in combinations:
        identity = _identity(combination, settings)
        if _key(identity) in done:
            report(next(row for row in rows if _key(row) == _key(identity)))
            continue
        rows.append({**identity, **figures_of(combination, settings)})
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
        rows = load_unique(file.read_text(encoding="utf-8"), nan=True)["rows"]
        if not all(_key(row) and row["status"] for row in rows):
            raise KeyError("status")
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: no result of sweep-sharding; give another --json") from None
    return rows


def _identity(combination: Combination, settings: SweepSettings) -> Row:
    """The columns by which a row is known, here and in files of other sweeps."""
    topology = combination.mesh.topology
    flags = " ".join(tpu_compiler_flags()) if has_compiler(topology) else ""
    return {
        "model": combination.model,
        "mesh": combination.mesh.name,
        "chip": topology.chip,
        "chips": topology.chips,
        "table": combination.table,
        "rules_hash": "" if combination.problem else combination.rules_hash,
        "axes": {} if combination.problem else combination.axes,
        "phase": combination.phase,
        "compiled_for": _compiled_for(topology, settings),
        "settings": settings.summary_of(combination.phase),
        "measured": settings.measure,
        **({"xla_flags": flags} if flags else {}),
    }


def _compiled_for(topology: Topology, settings: SweepSettings) -> str:
    """Whose compiler is asked: that of the chips, of what is here where it is timed, or XLA:CPU."""
    if settings.measure and jax.default_backend() != "cpu":
        kind = jax.devices()[0].device_kind
        return chip_of_device(kind) or kind
    return topology.chip if has_compiler(topology) else "CPU"


def _key(row: Row) -> str:
    names = (
        "model", "mesh", "table", "rules_hash", "phase", "compiled_for", "settings", "measured",
    )  # fmt: skip
    values = [row[name] for name in names]
    return json.dumps([*values, row.get("xla_flags", "")], sort_keys=True)


def combinations_of(
    models: Sequence[tuple[str, ModelConfig]],
    meshes: Sequence[MeshConfig],
    tables: Sequence[Table],
    phases: Sequence[str] = USUAL_PHASES,
) -> Iterator[Combination]:
    """Every model on every mesh with every table that differs from those before."""
    for mesh in meshes:
        for model, cfg in models:
            seen = set()
            for combination in _with_tables(model, cfg, mesh, tables, phases):
                mark = (combination.phase, combination.problem or combination.rules_hash)
                if mark not in seen:
                    seen.add(mark)
                    yield combination


def _with_tables(
    model: str,
    cfg: ModelConfig,
    mesh: MeshConfig,
    tables: Sequence[Table],
    phases: Sequence[str],
) -> Iterator[Combination]:
    for table, put_on in tables:
        try:
            with_table, problem = put_on(mesh), ""
        except ConfigError as error:
            with_table, problem = mesh, str(error)
        for phase in phases:
            yield Combination(model, cfg, table, with_table, phase, problem)
