"""The run directory: config, manifest, rows that survive kills, signals."""

from thinksafe_jax.runs.contents import (
    begun_recipe,
    refuse_another,
    refuse_foreign,
    refuse_inside,
)
from thinksafe_jax.runs.directory import Run
from thinksafe_jax.runs.manifest import finished_stages, recorded_models
from thinksafe_jax.runs.new_training import copy_untouched
from thinksafe_jax.runs.row_buffer import RowBuffer
from thinksafe_jax.runs.row_store import (
    WHOLE,
    Location,
    Part,
    RowStore,
    wait_for_rows,
)
from thinksafe_jax.runs.training_folders import (
    DATA_STAGES,
    data_folder,
    training_folder,
    training_folders,
)

__all__ = [
    "DATA_STAGES",
    "WHOLE",
    "Location",
    "Part",
    "RowBuffer",
    "RowStore",
    "Run",
    "begun_recipe",
    "copy_untouched",
    "data_folder",
    "finished_stages",
    "recorded_models",
    "refuse_another",
    "refuse_foreign",
    "refuse_inside",
    "training_folder",
    "training_folders",
    "wait_for_rows",
]
