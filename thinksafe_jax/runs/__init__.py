"""The run directory: lock, config, manifest, rows that survive kills, progress, signals."""

from thinksafe_jax.runs.buffer import RowBuffer
from thinksafe_jax.runs.manifest import content_hash
from thinksafe_jax.runs.mirror import run_folder
from thinksafe_jax.runs.part import WHOLE, Part
from thinksafe_jax.runs.progress import Progress
from thinksafe_jax.runs.run import Run
from thinksafe_jax.runs.storage import atomic_write, atomic_writer, prepare_directory
from thinksafe_jax.runs.store import Location, RowStore
from thinksafe_jax.runs.terminal import clean, console, setup_logging

__all__ = [
    "WHOLE",
    "Location",
    "Part",
    "Progress",
    "RowBuffer",
    "RowStore",
    "Run",
    "atomic_write",
    "atomic_writer",
    "clean",
    "console",
    "content_hash",
    "prepare_directory",
    "run_folder",
    "setup_logging",
]
