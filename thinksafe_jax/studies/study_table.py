"""A study on a terminal: a line a method, as the table of its page."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

_COLUMNS = {
    "harm": "harm %",
    "over_refusal": "over-refusal %",
    "reasoning": "reasoning %",
    "unparsed": "unparsed %",
    "unparsed_harmless": "harmless, unparsed %",
}


def study_table(results: Mapping[str, Any]) -> Table:
    """Mean over seeds with the 95 % interval of every measure, and the chosen setting."""
    # names are a user's text: their brackets are no markup
    table = Table(box=None, pad_edge=False, title=Text(results["name"]), title_justify="left")
    table.add_column("method", no_wrap=True)
    table.add_column("setting")
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for method in results["methods"]:
        cells = [_cell(method["measures"].get(name)) for name in _COLUMNS]
        names = method["name"], method["setting"] or "none could be measured"
        table.add_row(*map(Text, (*names, *cells)))
    return table


def _cell(estimate: Mapping | None) -> str:
    if not estimate or estimate["value"] is None:
        return "–"
    value, low, high = (f"{100 * estimate[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"
