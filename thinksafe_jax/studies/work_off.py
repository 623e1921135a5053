"""Working through the units of a study, beside other processes that do the same.

Nobody hands out work: each process goes through the list and takes the next unit whose directories
are free. A run directory's own lock, or its lease in a bucket, decides; the kernel frees a lock
whose holder was killed, and whoever comes next goes on where that process was.
"""

import gc
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from thinksafe_jax.config import RESUMABLE_KEYS, Recipe, diff
from thinksafe_jax.errors import ConfigError, InputError, InUse
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.pipeline import evaluate_student, run_pipeline, stages_of
from thinksafe_jax.runs import DATA_STAGES, begun_recipe, finished_stages, training_folders
from thinksafe_jax.storage import atomic_write, content_hash, is_held, prepare_directory, set_aside
from thinksafe_jax.studies.units import Unit

_log = logging.getLogger(__name__)
_WAIT = 2.0  # seconds before units that others hold are looked at again


def work_off(units: Sequence[Unit], root: Path) -> None:
    """Returns when every unit is done or has failed, by this process or by another.

    A unit fails where its input does not do, as where a filter keeps no row: the study goes on
    without it and says so. What the machine refuses ends the study, which is then continued by the
    same command.

    Raises:
        Terminated: after SIGTERM or Ctrl-C.
        ConfigError, EnvironmentFault, RetryLater: as `run_pipeline`.
    """
    waiting, said = list(units), 0
    while waiting:
        held = []
        for number, unit in enumerate(waiting, start=1):
            if _is_free(unit, root):
                _log.info("%s, %s: %d of %d", unit.name, unit.split, number, len(waiting))
            if not _attempt(unit, root):
                held.append(unit)
        if held and len(held) == len(waiting) and said != len(held):
            said = len(held)
            _log.info("%d runs are at work in other processes; waiting for them", said)
        if held:
            time.sleep(_WAIT)
        waiting = held


def failure(unit: Unit, root: Path) -> str | None:
    """Why a unit failed; None where it has not, or where its recipe is another by now."""
    file = unit.failure_file(root)
    if not file.exists():
        return None
    record = read_json_object(file)
    return record["error"] if record.get("recipe") == _identity(unit) else None


def set_changed_aside(units: Sequence[Unit], root: Path) -> None:
    """Moves directories that an earlier edition of the study began with another recipe.

    They are kept in STUDY_DIR/earlier; what has the same recipe as before is taken up as it is.

    Raises:
        InUse: another process works in such a directory.
    """
    for unit in units:
        if unit.run is not None and is_another(unit.own_folder(root), unit.run):
            _set_aside(unit.own_folder(root), root)
        if shared := unit.data_run(root):
            folder, data = shared
            if is_another(folder, data.recipe, any_training=True):
                _set_aside(folder, root)
        training = unit.run_folder(root)
        if unit.run is not None and training is not None and is_another(training, unit.run):
            _set_aside(training, root)
        if is_another(unit.evaluation_folder(root), unit.evaluation):
            _set_aside(unit.evaluation_folder(root), root)


def _attempt(unit: Unit, root: Path) -> bool:
    """Whether the unit needs no more work; False where another process has it."""
    if failure(unit, root) is not None:
        return True
    if not _is_free(unit, root):
        return False
    evaluation = unit.evaluation_folder(root)
    try:
        _train(unit, root)
        prepare_directory(evaluation)
        evaluate_student(unit.evaluation, evaluation, unit.run_folder(root))
    except InUse:
        return False
    except InputError as error:
        _log.warning("%s is left out: %s", unit.name, error)
        file = unit.failure_file(root)
        file.parent.mkdir(parents=True, exist_ok=True)
        record = {"error": str(error), "recipe": _identity(unit)}
        atomic_write(file, json.dumps(record, indent=1) + "\n")
    finally:
        gc.collect()  # arrays of the run before are gone before the next one's are made
    return True


def _train(unit: Unit, root: Path) -> None:
    """Everything of a unit up to the export; of the student as it was, nothing."""
    run = unit.run_folder(root)
    if run is None or unit.run is None:
        return
    stages = stages_of(unit.run)
    stages = stages[: stages.index("evaluate")]
    if shared := unit.data_run(root):
        folder, data = shared
        _make_data(data.recipe, folder)
        stages = [name for name in stages if name not in DATA_STAGES]
    prepare_directory(run)
    run_pipeline(unit.run, run, stages=stages)


def _make_data(recipe: Recipe, folder: Path) -> None:
    """Samples and filters what several settings train on, unless that is done.

    Raises:
        InUse: another process does so now.
    """
    prepare_directory(folder)
    if (folder / "config.yaml").exists():  # whatever it was begun to train, the data are the same
        recipe = replace(recipe, training=begun_recipe(folder).training)
    try:
        run_pipeline(recipe, folder, stages=DATA_STAGES)
    except InUse:
        if not finished_stages(folder).issuperset(DATA_STAGES):
            raise
        # another process trains on them, and has looked at them before it began


def _is_free(unit: Unit, root: Path) -> bool:
    """Whether no process works on the unit now, or on the samples that it needs."""
    folders = [unit.run_folder(root), unit.evaluation_folder(root)]
    if shared := unit.data_run(root):
        folders.append(shared[0])
    return not any(folder is not None and is_held(folder / "lock") for folder in folders)


def _identity(unit: Unit) -> str:
    """What a failure is of: the recipe, whatever the study calls it."""
    return content_hash(unit.run, unit.evaluation)


def is_another(folder: Path, recipe: Recipe, *, any_training: bool = False) -> bool:
    """Whether a directory was begun with another recipe.

    Args:
        any_training: its data alone are of interest, so `training.*` may differ.
    """
    if not (folder / "config.yaml").exists():
        return False
    try:
        begun = begun_recipe(folder)
    except ConfigError:  # of another version of the program
        return True
    recipe = replace(recipe, training=begun.training) if any_training else recipe
    return bool(diff(begun, recipe, RESUMABLE_KEYS))


def _set_aside(folder: Path, root: Path) -> None:
    if any(is_held(path / "lock") for path in (folder, *training_folders(folder))):
        raise InUse(
            f"{folder} was begun with another recipe and is in use; stop what works there, or give "
            "the changed study another --study-dir"
        )
    kept = set_aside(folder, root / "earlier" / folder.relative_to(root))
    _log.warning("%s: the study has another recipe by now; it is kept as %s", folder, kept)
