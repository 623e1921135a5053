"""A sweep's rows as CSV, for spreadsheets and data frames: one line a row, nothing nested."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from thinksafe_jax.planning.collectives import KINDS
from thinksafe_jax.planning.sweep_settings import Row

# what is left out has its own columns (collectives), or is text for people (warnings)
_NESTED = ("collectives", "warnings", "settings", "axes")


def sweep_csv(rows: Sequence[Row]) -> str:
    """CSV text: the columns of all rows; a row leaves those empty that it does not have."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    axes = " ".join(f"{name}={size}" for name, size in row["axes"].items())
    columns = {name: value for name, value in row.items() if name not in _NESTED}
    columns |= {"axes": axes, "settings": json.dumps(row["settings"], sort_keys=True)}
    if row["status"] == "ok":
        columns["tokens_per_second_per_chip"] = row["tokens_per_second"] / row["chips"]
        for kind in KINDS:
            traffic = row["collectives"].get(kind, {})
            for name in ("count", "bytes", "wire_bytes"):
                columns[f"{kind} {name}"] = traffic.get(name, 0)
    return columns
