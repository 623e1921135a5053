"""The tables at the end of a run, for the terminal: before, after, several runs side by side."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from thinksafe_jax.report.view import TITLES, rate_rows, suite_rows
from thinksafe_jax.runs import clean


def final_table(summary: dict) -> Group:
    """Before, after and difference of each rate with 95 % intervals, and of each suite.

    Args:
        summary: the content of summary.json. Print the result with a rich console.
    """
    parts: list = []
    if rows := rate_rows(summary):
        columns = ("before", "after", "change")
        rates = _table(f"{summary['name']}: before and after", "rate", *columns, "n")
        for row in rows:
            cells = [_cell(row.get(column)) for column in columns]
            rates.add_row(Text(row["title"]), *cells, Text(row["n"]))
        parts.append(rates)
    if suites := suite_rows(summary):
        steps = list(suites[0]["cells"])
        table = _table(f"{summary['name']}: suites", "suite", *steps, "questions × samples")
        for row in suites:
            cells = [_cell(row["cells"][step], notes=True) for step in steps]
            name = Text(f"{row['suite']}\n")
            name.append(f"{row['metric']}, {row['hint']}", style="dim")
            table.add_row(name, *cells, Text(row["n"]))
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
    shown = [{row["name"]: row for row in rate_rows(summary)} for _, summary in runs]
    for name, (title, _) in TITLES.items():
        cells = [rows.get(name) or {} for rows in shown]
        if not any(cells):
            continue
        before = next((c["before"] for c in cells if c.get("before")), None)
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


def _cell(rate: dict | None, notes: bool = False) -> Text:
    if not rate:
        return Text("–")
    text = Text(rate["value"])
    for line in (rate["interval"], rate["bounds"], *(rate["notes"] if notes else ())):
        if line:
            text.append(f"\n{line}", style="dim")
    return text
