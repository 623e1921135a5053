"""The run directory: config, manifest, rows that survive kills, signals."""

from thinksafe_jax.runs.directory import Run
from thinksafe_jax.runs.manifest import SCHEMA_VERSION, Manifest, log
from thinksafe_jax.runs.row_store import Location, Part, RowBuffer, RowStore, wait_for_rows

__all__ = [
    "SCHEMA_VERSION",
    "Location",
    "Manifest",
    "Part",
    "RowBuffer",
    "RowStore",
    "Run",
    "log",
    "wait_for_rows",
]
