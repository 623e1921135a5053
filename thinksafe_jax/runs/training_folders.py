"""Several trainings of one run: what they share lies in the run, what each makes lies in a folder.

    RUN/samples, verdicts, dataset     made once
    RUN/checkpoints, adapter, ...      the training of the run itself
    RUN/trainings/NAME/                another one: config.yaml, manifest.json, checkpoints,
                                       adapter, evaluation, report, as in a run directory

A folder of a training is opened as a run directory is; its data are those of the run around it.
"""

from pathlib import Path

from thinksafe_jax.config import FolderName
from thinksafe_jax.errors import ConfigError

TRAININGS = "trainings"
DATA_STAGES = ("sample", "filter")
_MARKS = ("config.yaml", "manifest.json")  # of a run; a bucket keeps no lock


def data_folder(path: Path) -> Path:
    """The run directory whose samples, verdicts and dataset are those of `path`.

    Returns:
        The run around a training; `path` itself for a run.
    """
    run = path.absolute().parent.parent
    is_run = all((run / name).exists() for name in _MARKS)
    if path.absolute().parent.name != TRAININGS or not is_run:
        return path
    return path.parent.parent if len(path.parts) > 2 else run


def training_folder(run_dir: Path, name: str) -> Path:
    """Where a run keeps the training of a name, made or not.

    Raises:
        ConfigError: the name cannot be that of a folder, or would be a hidden one.
    """
    problem = FolderName().problem(name)
    if problem or not name or name.startswith("."):
        raise ConfigError(f"--as: {problem or 'expected a name that begins with no dot'}")
    return run_dir / TRAININGS / name


def training_folders(run_dir: Path) -> list[Path]:
    """The folders of a run's other trainings, by name."""
    return sorted(file.parent for file in (run_dir / TRAININGS).glob("*/config.yaml"))
