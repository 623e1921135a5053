"""The tables at the end of a run, for the terminal: before, after, several runs side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from thinksafe_jax.evaluation import Comparison, Evaluated, paper_columns, paper_rows
from thinksafe_jax.report.readability import has_ground
from thinksafe_jax.report.run_files import STEPS, read_run
from thinksafe_jax.report.short_names import short_names
from thinksafe_jax.report.suite_rows import (
    LIST_TITLES,
    Cell,
    list_rows,
    named_rows,
    percent,
    points,
)
from thinksafe_jax.report.summary import build_summary
from thinksafe_jax.terminal import clean


def final_table(summary: dict) -> Group:
    """Before, after and difference of each rate with 95 % intervals, and of each suite.

    Args:
        summary: the content of summary.json. Print the result with a rich console.
    """
    parts: list = []
    if rows := list_rows(summary):
        title = f"{summary['name']}: before and after"
        rates = _table(title, "rate", *STEPS, "change", "n")
        for row in rows:
            cells = (*(row.cells[step] for step in STEPS), row.change)
            rates.add_row(Text(row.title), *map(_cell, cells), Text(row.n))
        parts.append(rates)
    if rows := named_rows(summary):
        steps = list(rows[0].cells)
        table = _table(f"{summary['name']}: suites", "suite", *steps, "questions × samples")
        for row in rows:
            name = Text(f"{row.title}\n")
            name.append(f"{row.metric}, {row.hint}", style="dim")
            cells = [_cell(row.cells[step], notes=True) for step in steps]
            table.add_row(name, *cells, Text(row.n))
        parts.append(table)
    parts += [Text(clean(f"note: {note['text']}")) for note in summary["notes"]]
    return Group(*parts)


def comparison_table(runs: Sequence[tuple[str, dict]]) -> Table:
    """Several runs side by side: each rate before, then after in each run with its interval.

    Args:
        runs: (name, content of its summary.json); the first one's `before` is shown, since all
            begin with the same student.
    """
    table = _table("after training, side by side", "rate", "before", *(name for name, _ in runs))
    shown = [{row.name: row.cells for row in list_rows(summary)} for _, summary in runs]
    for name, (title, _) in LIST_TITLES.items():
        cells = [rows.get(name) or {} for rows in shown]
        if not any(cells):
            continue
        before = next((c["before"] for c in cells if c.get("before")), None)
        table.add_row(Text(title), _cell(before), *(_cell(c.get("after")) for c in cells))
    suites = [{row.name: row for row in named_rows(summary)} for _, summary in runs]
    for name, row in {name: row for rows in suites for name, row in rows.items()}.items():
        cells = [rows[name].cells if name in rows else {} for rows in suites]
        before = next((c["before"] for c in cells if c.get("before")), None)
        title = f"{name}: {row.metric}"
        table.add_row(Text(title), _cell(before), *(_cell(c.get("after")) for c in cells))
    unparsed = [_unparsed(summary["after"]) for _, summary in runs]
    if any(unparsed):
        before = _unparsed(runs[0][1]["before"])
        table.add_row(Text("Unparsed rows"), *(Text(text or "–") for text in (before, *unparsed)))
    return table


def _unparsed(rates: dict | None) -> str:
    counts = (rates or {}).get("unparsed", {})
    return "\n".join(f"{suite.replace('_', '-')} {n:,}" for suite, n in counts.items() if n)


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=Text(clean(title)), title_justify="left", title_style="bold")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(Text(clean(column)), justify="right")
    return table


def _cell(rate: Cell | None, notes: bool = False) -> Text:
    if not rate:
        return Text("–")
    text = Text(rate.value)
    for line in (rate.interval, rate.bounds, rate.sign, *(rate.notes if notes else ())):
        if line:
            text.append(f"\n{line}", style="dim")
    return text


def compare_tables(
    evaluated: Sequence[Evaluated], compared: Mapping[str, Sequence[Comparison]]
) -> list[Table]:
    """Paired differences with the first evaluation, then the paper's rows and the runs' beneath.

    Args:
        compared: lines by the label of each but the first.
    """
    summaries = {side.run: build_summary(read_run(side.run)) for side in evaluated}
    labels = [side.label for side in evaluated]
    names = dict(zip(labels, short_names(labels), strict=True))
    unread = {side.label: _unread(summaries[side.run], side.step) for side in evaluated}
    base = evaluated[0].label
    table = Table(title=Text(clean(f"compared with {names[base]}")), title_justify="left")
    for name in ("run", "suite", "metric"):
        table.add_column(name)
    for name in ("base", "run", "difference, points", "problems"):
        table.add_column(name, justify="right")
    for label, lines in compared.items():
        for line in lines:
            grounded = line.suite not in unread[base] | unread[label]
            cells = _comparison_cells(line, grounded)
            table.add_row(*(Text(clean(cell)) for cell in (names[label], *cells)))
    return [table, *_paper_tables(summaries)]


def _unread(summary: Mapping, step: str) -> set[str]:
    """The suites of an evaluation of which too few rows could be read."""
    suites = summary["readable"].get(step, {}).get("suites", {})
    return {name for name, facts in suites.items() if not has_ground(facts)}


def _comparison_cells(line: Comparison, grounded: bool) -> tuple[str, ...]:
    """Suite, metric, both rates, the paired difference with its interval, and how many problems."""
    alone = f" (+{line.only_left}/{line.only_right} alone)"
    return (
        line.suite,
        line.metric,
        percent(line.left.value),
        percent(line.right.value),
        points(line.difference) if grounded else "too few rows could be read",
        f"{line.common}{alone if line.only_left or line.only_right else ''}",
    )


def _paper_tables(summaries: Mapping[Path, dict]) -> list[Table]:
    """For each of the paper's models among the runs: the paper's rows, and the runs' beneath."""
    by_model: dict[str, dict[str, dict[str, float]]] = {}
    names = short_names(list(map(str, summaries)))
    for name, summary in zip(names, summaries.values(), strict=True):
        if paper := summary["paper"]:
            rows = {f"{name}: {step}": row for step, row in paper["run"].items()}
            by_model.setdefault(paper["model"], {}).update(rows)
    return [_paper_table(model, rows) for model, rows in by_model.items() if rows]


def _paper_table(model: str, ours: Mapping[str, Mapping[str, float]]) -> Table:
    title = f"paper: {model} (%; SafeAvg is the paper's mean of three harm rates and over-refusal)"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("")
    columns = paper_columns()
    for column in columns:
        table.add_column(column.short, justify="right")
    for name, row in (*paper_rows(model).items(), *ours.items()):
        cells = [f"{row[c.key]:.2f}" if c.key in row else "–" for c in columns]
        table.add_row(Text(clean(name)), *cells)
    return table


def coverage_table(counts: Mapping[str, Mapping[str, Any]]) -> Table:
    """counts.json for the terminal: one row a label, one column an attempt."""
    numbers = sorted({int(n) for count in counts.values() for n in count.get("accepted_at", {})})
    table = Table(title="Coverage: prompts accepted at each attempt")
    table.add_column("prompts")
    for name in ("asked", *(f"attempt {n}" for n in numbers), "never", "accepted"):
        table.add_column(name, justify="right")
    table.add_column("why never")
    for label, count in counts.items():
        at = count.get("accepted_at", {})
        why = ", ".join(f"{reason} {n}" for reason, n in count["dropped"].items())
        cells = [str(at.get(str(n), 0)) for n in numbers]
        asked, accepted = count["sampled"], count["accepted"]
        share = f"{accepted / asked:.1%}" if asked else ""
        table.add_row(label, str(asked), *cells, str(asked - accepted), share, why)
    return table
