"""The run directory: config, manifest, rows that survive kills, signals."""

from thinksafe_jax.runs.contents import begun_recipe, refuse_another, refuse_inside
from thinksafe_jax.runs.directory import Run
from thinksafe_jax.runs.manifest import finished_stages
from thinksafe_jax.runs.row_buffer import RowBuffer
from thinksafe_jax.runs.row_store import (
    WHOLE,
    Location,
    Part,
    RowStore,
    wait_for_rows,
)

__all__ = [
    "WHOLE",
    "Location",
    "Part",
    "RowBuffer",
    "RowStore",
    "Run",
    "begun_recipe",
    "finished_stages",
    "refuse_another",
    "refuse_inside",
    "wait_for_rows",
]
