"""Bounds beside measurements: rows of two sweeps that speak of the same program."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from thinksafe_jax.errors import InputError
from thinksafe_jax.planning.sweep import read_rows
from thinksafe_jax.planning.sweep_settings import Row
from thinksafe_jax.terminal import clean, output

_SAME = ("model", "mesh", "table", "rules_hash", "phase", "settings")


def print_comparison(planned: Path, measured: Path) -> int:
    """The command `thinksafe sweep-sharding --compare`; how many rows are in both.

    Args:
        planned: rows with bounds, as `--json` writes them.
        measured: rows with times, as `--measure --json` does.

    Raises:
        InputError: a file is missing or no sweep, nothing in it is measured, or nothing is in both.
    """
    for file in (planned, measured):
        if not file.exists():
            raise InputError(f"{file}: no such file; `thinksafe sweep-sharding --json` writes it")
    timed = [row for row in read_rows(measured) if "measured_seconds" in row]
    if not timed:
        raise InputError(f"{measured}: no row has been measured; write it with --measure")
    pairs = matched(read_rows(planned), timed)
    if not pairs:
        raise InputError(
            f"{planned} and {measured} have no row in common; model, mesh, table and settings "
            "(--length, --rows, --context, --slots, --prompt, --dtype) must be the same"
        )
    console = output(130)
    console.print(comparison_table(pairs))
    return len(pairs)


def matched(planned: Sequence[Row], measured: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of (planned, measured) of the same model, mesh, rules, phase and settings."""
    bounds = {_key(row): row for row in planned if row["status"] == "ok"}
    return [(bounds[_key(row)], row) for row in measured if _key(row) in bounds]


def _key(row: Row) -> str:
    return json.dumps([row[name] for name in _SAME], sort_keys=True)


def comparison_table(pairs: Sequence[tuple[Row, Row]]) -> Table:
    """One line a pair: the bound's parts, the time, and how many times the bound it is."""
    table = Table(title="Bounds (ms) and times measured; a ratio of 1 is the hardware's limit")
    for name in ("model", "mesh", "table", "phase"):
        table.add_column(name, overflow="fold")
    for name in ("compute", "memory", "network", "limit", "bound", "measured", "ratio"):
        table.add_column(name, justify="right")
    for planned, measured in pairs:
        bound, time = planned["roofline_seconds"], measured["measured_seconds"]
        parts = [planned[f"{name}_seconds"] for name in ("compute", "memory", "network")]
        cells = [planned[name] for name in ("model", "mesh", "table", "phase")]
        cells += [*map(_ms, parts), planned["limit"], _ms(bound), _ms(time), f"{time / bound:.2f}"]
        table.add_row(*(clean(cell) for cell in cells))
    return table


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g}"
