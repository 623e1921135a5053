"""A search for people: what was looked at, what won and why, and the winner as a mesh file."""

import json
import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from thinksafe_jax.config import write_new
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.search import OWN, PhaseSearch, SearchRequest, search
from thinksafe_jax.planning.sweep_best import rate_per_chip, why_better, why_not
from thinksafe_jax.planning.sweep_report import (
    SweepFiles,
    prepare_devices,
    print_between,
    print_rows,
    row_line,
    write_files,
)
from thinksafe_jax.planning.sweep_settings import Combination, Row, SweepSettings
from thinksafe_jax.sharding import MeshConfig, load_mesh, mesh_text
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.terminal import Progress, output, print_line

_WIDTH = 100  # columns of the file's comment


def run_search(
    model: str,
    mesh: str,
    settings: SweepSettings,
    *,
    budget: int,
    batch: int | None,
    winner: Path | None,
    out: SweepFiles,
) -> bool:
    """The command `thinksafe sweep-sharding --search`: compiles, prints, writes the files.

    Args:
        model: see `find_model`.
        mesh: see `load_mesh`; its hardware, and its own table as one of those that are tried.
        budget, batch: see `SearchRequest`.
        winner: the mesh file to write; default MESH-MODEL.yaml in the current directory.

    Returns:
        Whether a table fits for each phase; only then the mesh file is written.

    Raises:
        ConfigError: the mesh file to write is there already, and what `load_mesh` raises.
    """
    config = load_mesh(mesh)
    name, cfg = find_model(model)
    winner = winner or Path(f"{config.name}-{name.lower()}.yaml")
    if winner.exists():
        raise ConfigError(f"{winner} is there already; name another file with --out")
    if not os.access(winner.parent, os.W_OK):
        raise ConfigError(f"{winner.parent} is no folder that can be written to; see --out")
    request = SearchRequest(name, cfg, config, settings, budget, batch)
    prepare_devices([config], settings)
    with Progress("search", budget, unit="programs") as progress:

        def report(row: Row) -> None:
            progress.advance(phase=row["phase"], table=row["table"])
            print_line(row_line(row))

        results = search(request, out.json, report)
    rows = _print_results(results, config)
    if out.json is not None:
        _add_summaries(out.json, results)
    write_files(rows, out)
    if not all(result.ranked for result in results.values()):
        return False
    print_between([_winning_tables(request, results)], settings, out.json)
    write_new(winner, winner_text(model, mesh, winner, results))
    print_line(f"written to {winner}: thinksafe plan --model {model} --mesh {winner}")
    return True


def _print_results(results: dict[str, PhaseSearch], mesh: MeshConfig) -> list[Row]:
    """Prints the rows of both phases and what they say; the rows."""
    rows = [row for result in results.values() for row in result.rows]
    print_rows(rows, [mesh])
    lines = [line for result in results.values() for line in result_lines(result)]
    output(150).print("\n".join(lines), markup=False)
    return rows


def _winning_tables(request: SearchRequest, results: dict[str, PhaseSearch]) -> Combination:
    """The best table of each phase, on one mesh."""
    best = {kind: result.tables[result.ranked[0]["table"]] for kind, result in results.items()}
    mesh = replace(request.mesh, **best)
    return Combination(request.model, request.cfg, "the winner", mesh, "train")


def result_lines(result: PhaseSearch) -> Iterator[str]:
    """What was looked at, the winner with the reason, and what was refused, by reason."""
    refused = result.refused + _refused_compiled(result)
    yield (
        f"{result.kind}: {result.proposed} tables, {len(result.rows)} compiled, "
        f"{refused.total()} refused, {result.cannot_beat} slower at best, "
        f"{result.over_budget} not tried (--budget)"
    )
    yield from (f"  {line}" for line in _winner_lines(result))
    for reason, count in refused.most_common():
        yield f"  {count} refused{', such as' if count > 1 else ''}: {reason}"


def _refused_compiled(result: PhaseSearch) -> Counter[str]:
    """What compiling refused."""
    ranked = result.ranked
    failed = [row for row in result.rows if row not in ranked]
    return Counter(f"{row['table']} {row.get('reason', '') or why_not(row)}" for row in failed)


def _winner_lines(result: PhaseSearch) -> Iterator[str]:
    """The best table, the runner-up, and how far the mesh's own is behind."""
    ranked = result.ranked
    if not ranked:
        yield "no table fits"
        return
    best = ranked[0]
    yield f"best: {best['table']}, {rate_per_chip(best):,.0f} tokens/s a chip at most"
    if len(ranked) > 1:
        yield f"runner-up: {ranked[1]['table']}; the best is {why_better(*ranked[:2])}"
    for row in ranked[2:]:
        if row["table"] == OWN:
            yield f"the mesh's own table: the best is {why_better(best, row)}"


def winner_text(model: str, mesh: str, file: Path, results: dict[str, PhaseSearch]) -> str:
    """The mesh file of the best tables, which says how they were found."""
    comment = [
        f"thinksafe plan --model {model} --mesh {file}",
        "",
        f"Tables for {model} on {Path(mesh).stem}, the best that a search of sweep-sharding tried.",
    ]
    for result in results.values():
        text = f"{result.kind}: " + "; ".join(_winner_lines(result)) + "."
        comment += textwrap.wrap(text, _WIDTH - 2)
    best = {kind: result.tables[result.ranked[0]["table"]] for kind, result in results.items()}
    return mesh_text(mesh, best["train"], best["generate"], comment)


def _add_summaries(file: Path, results: dict[str, PhaseSearch]) -> None:
    """Beside the rows that are there: what was looked at, what was refused and the order."""
    summaries = {kind: _summary(result) for kind, result in results.items()}
    content = read_json_object(file) | {"search": summaries}
    atomic_write(file, json.dumps(content, indent=1) + "\n")


def _summary(result: PhaseSearch) -> dict:
    counts = asdict(result)
    del counts["rows"], counts["tables"]
    counts["refused"] = dict(result.refused + _refused_compiled(result))
    return counts | {"ranked": [row["table"] for row in result.ranked]}
