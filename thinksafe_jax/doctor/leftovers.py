"""What kills left behind: files and folders that count for nothing and may be deleted.

RUN/.manifest.json.4711.partial                 a file that was being written
RUN/.adapter.partial/                           a folder that was being written
RUN/checkpoints/.partial-step_00000100/         a checkpoint that was being written
RUN/checkpoints/step_00000100/ without all that its manifest.json lists: it is never resumed
"""

import os
from pathlib import Path

from thinksafe_jax.errors import InputError
from thinksafe_jax.weights import read_manifest

_ENDINGS = (".partial", ".tmp")
_BEGINNINGS = (".partial-", ".thinksafe-doctor-")
_ORBAX = ".orbax-checkpoint-tmp"


def partial_files(folder: Path) -> list[Path]:
    """Files and folders below `folder` that were being written; nothing inside of one is listed."""
    partial: list[Path] = []
    for parent, folders, files in os.walk(folder):
        partial += [Path(parent, name) for name in (*folders, *files) if _is_partial(name)]
        folders[:] = [name for name in folders if not _is_partial(name)]  # os.walk goes into these
    return sorted(partial)


def _is_partial(name: str) -> bool:
    return name.endswith(_ENDINGS) or name.startswith(_BEGINNINGS) or _ORBAX in name


def unfinished_steps(run_dir: Path) -> list[Path]:
    """Checkpoints that a resume passes over, as not all of their files are there."""
    folder = run_dir / "checkpoints"
    steps = sorted(folder.iterdir()) if folder.is_dir() else []
    return [step for step in steps if _is_step(step) and not _is_whole(step)]


def _is_step(path: Path) -> bool:
    return path.is_dir() and path.name.removeprefix("step_").isdecimal()


def _is_whole(step: Path) -> bool:
    """Whether every file of the manifest is there with its size; contents are not read."""
    try:
        files = read_manifest(step)["files"]
    except InputError:
        return False
    return all(
        (step / name).is_file() and (step / name).stat().st_size == facts["bytes"]
        for name, facts in files.items()
    )
