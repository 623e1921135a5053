"""What a sweep's figures say: the best table of each mesh and why, and those that nothing beats."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from thinksafe_jax.planning.sweep_settings import PHASES, Row

EQUAL = 0.01  # rates that differ by less are equal: they are bounds
_EQUAL_UNHIDDEN = 0.05  # less is known of what hides; memory then decides


def rate_per_chip(row: Row) -> float:
    """Tokens a second and chip: measured, or at the bound."""
    return row.get("measured_tokens_per_second", row["tokens_per_second"]) / row["chips"]


def fitting(rows: Sequence[Row]) -> list[Row]:
    """Rows with figures whose program has room on its devices."""
    return [row for row in rows if row["status"] == "ok" and row["fits"]]


def best_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Of each phase, model and mesh with several tables: the fastest that fits, and why it is.

    A file may have rows of several sweeps: those of other settings are not compared.
    """

    def cell(row: Row) -> tuple[int, str, str, str]:
        return PHASES.index(row["phase"]), row["model"], row["mesh"], _conditions(row)

    for (phase, model, mesh, _), group in groupby(sorted(rows, key=cell), cell):
        tried = list(group)
        ranked = sorted(fitting(tried), key=rank)
        if len(tried) < 2 or not ranked:
            continue
        head = f"{PHASES[phase]}, {model} on {mesh}: {ranked[0]['table']}"
        others = [f"{row['table']} {why_not(row)}" for row in tried if row not in ranked]
        runner = [why_better(ranked[0], ranked[1])] if len(ranked) > 1 else []
        yield f"{head}, {'; '.join(runner + others)}"


def draft_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Of each table with decode and drafted rows: how many tokens a pass must make to gain.

    A pass with drafts makes one token at least, where none of them is taken.
    """
    good = fitting(rows)
    steps = {_table_of(row): row for row in good if row["phase"] == "decode"}
    for row in good:
        step = steps.get(_table_of(row))
        if row["phase"] != "drafted" or step is None or row["rows"] != step["rows"]:
            continue
        least, positions = _seconds(row) / _seconds(step), row["tokens"] // row["rows"]
        yield (
            f"{row['model']} on {row['mesh']}, {row['table']}: a pass of {positions} positions "
            f"takes as long as {least:.2f} steps ({row['limit']} bound), so drafts gain above "
            f"{least:.2f} tokens a pass, {positions / least:.2f} times at most"
        )


def _table_of(row: Row) -> tuple[str, ...]:
    """A table under its conditions; the length of drafts is none of decode's."""
    return row["model"], row["mesh"], row["table"], _conditions(row, "drafts")


def _conditions(row: Row, *ignored: str) -> str:
    """What two rows must share to be compared: settings, compiler, bounds or times.

    Args:
        ignored: names of settings that they need not share.
    """
    settings = {name: value for name, value in row["settings"].items() if name not in ignored}
    conditions = settings, row["compiled_for"], row.get("xla_flags", ""), row["measured"]
    return json.dumps(conditions, sort_keys=True)


def rank(row: Row) -> tuple[int, int, int]:
    """The best row first: by its rate, then by the rate without hiding, then by memory."""
    rate = round(math.log(rate_per_chip(row)) / EQUAL)
    unhidden = round(math.log(_unhidden_rate(row)) / _EQUAL_UNHIDDEN)
    return -rate, -unhidden, row["peak_bytes"]


def _unhidden_rate(row: Row) -> float:
    """Rows a second and chip where no message hides behind work, at most."""
    names = ("network_seconds", "dcn_seconds", "adapter_seconds")
    messages = sum(row.get(name, 0.0) for name in names)
    busy = row.get("busy_seconds") or max(row["compute_seconds"], row["memory_seconds"])
    return _rows_per_chip(row) / (busy + messages)


def why_not(row: Row) -> str:
    """Why a combination has no rate, shortly; the row has the whole reason."""
    if row["status"] == "ok":
        return f"needs {row['peak_bytes'] / 1e9:.1f} GB a chip, more than there is"
    return {"too large": "does not fit"}.get(row["status"], f"is {row['status']}")


def why_better(best: Row, second: Row) -> str:
    """A rate is rows over seconds: which of the two differs, and what bounds the seconds."""
    limits = f"{best['limit']} bound, {second['table']} by {second['limit']}"
    if best["limit"] == second["limit"]:
        limits = f"both {best['limit']} bound"
    if rank(best)[0] == rank(second)[0]:
        sizes = [f"{row['peak_bytes'] / 1e9:.1f}" for row in (best, second)]
        return (
            f"as fast as {second['table']} ({limits}) where messages hide, "
            f"{_unhidden_rate(best) / _unhidden_rate(second):.2f} times where none does; "
            f"{sizes[0]} GB a chip against {sizes[1]}"
        )
    rate = rate_per_chip(best) / rate_per_chip(second)
    rows, time = _rows_per_chip(best), _seconds(best) / _seconds(second)
    return (
        f"{rate:.2f} times {second['table']}: {rows / _rows_per_chip(second):.2f} times the rows "
        f"({rows:.3g} a chip) in {time:.2f} times the time; {limits}"
    )


def _rows_per_chip(row: Row) -> float:
    return row["programs"] * row["rows"] / row["chips"]


def _seconds(row: Row) -> float:
    return row.get("measured_seconds", row["roofline_seconds"])


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in both memory and tokens a second and chip, by rising memory.

    A hundredth more tokens a second is no reason for more memory.
    """
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["peak_bytes"], -rate_per_chip(row))):
        if not front or rate_per_chip(row) > (1 + EQUAL) * rate_per_chip(front[-1]):
            front.append(row)
    return front
