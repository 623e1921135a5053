"""Coverage as a table: how many prompts of each label were accepted, when, or why not."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


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
