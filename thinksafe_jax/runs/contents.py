"""What lies in a run directory: which configuration it is of, and what to delete to begin anew."""

import logging
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from thinksafe_jax.config import RESUMABLE_KEYS, Recipe, diff, load_recipe, to_yaml
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.runs.new_training import begin_new_training, finish_move
from thinksafe_jax.runs.training_folders import data_folder, training_folders
from thinksafe_jax.storage import atomic_write, persist, set_aside, shown, storage_errors
from thinksafe_jax.version import __version__

log = logging.getLogger(__name__)

# In this order `clear` deletes: without a manifest nothing counts as done, and the config goes
# last, so that a kill in between can never mix two configurations.
CONTENTS = (
    "manifest.json",
    "samples",
    "verdicts",
    "dataset",
    "rollouts",
    "checkpoints",
    "adapter",
    "merged",
    "evaluation",
    "analysis",
    "report",
    "trainings",
    "metrics.jsonl",
    "models.json",
    "config.yaml",
)
# what was made of the guard's word first
_OF_GUARD = (
    "trainings",
    "merged",
    "adapter",
    "checkpoints",
    "rollouts",
    "dataset",
    "verdicts",
)


def begun_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a run directory was begun with, RUN/config.yaml.

    Args:
        overrides: changes to it, as `load_recipe` takes them.

    Raises:
        ConfigError: it cannot be read; the message names the version that wrote it, as that may
            know keys that this one does not.
    """
    file = path / "config.yaml"
    try:
        begun = load_recipe(file)
    except ConfigError as error:
        raise ConfigError(
            f"{error}\n{shown(path)} was begun with version {_version_of(path)} of thinksafe-jax; "
            f"this is {__version__}. Go on with that version, put config.yaml right if it was "
            "edited, or use --new-run to delete the run and start afresh"
        ) from None
    return load_recipe(file, overrides) if overrides else begun


def _version_of(path: Path) -> str:
    """The program's version in a run's manifest."""
    try:
        content = load_unique((path / "manifest.json").read_text(encoding="utf-8"), nan=True)
        return str(content["versions"]["thinksafe-jax"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def refuse_inside(path: Path) -> None:
    """Refuses a new run directory inside another run's, which may be deleted or copied whole.

    Raises:
        ConfigError: with the run that it would lie in.
    """
    if (path / "config.yaml").exists() or data_folder(path) != path:
        return  # begun before, or a training of the run around it
    for folder in path.resolve().parents:
        if all((folder / name).exists() for name in ("config.yaml", "manifest.json", "lock")):
            raise ConfigError(
                f"{shown(path)} lies inside the run {shown(folder)}, whose files may be deleted or "
                "copied together; choose a --run-dir beside it"
            )


def make_ready(
    recipe: Recipe, path: Path, *, new_run: bool, new_verdicts: bool, new_training: bool
) -> None:
    """Refuses what is not of this recipe; deletes or sets aside what is to be made anew.

    Args:
        path: a directory that this process has locked; for the options see `Run.open`.

    Raises:
        ConfigError: files that are no run, or begun with another configuration.
    """
    refuse_foreign(path)
    if new_run:
        clear(path)
    finish_move(path)
    refuse_another(recipe, path, other_guards=new_verdicts, other_training=new_training)
    if new_verdicts:
        clear_verdicts(path, recipe)
    if new_training and _has_other_training(recipe, path):
        begin_new_training(path, to_yaml(recipe))


def clear(path: Path) -> None:
    """Delete a run's contents and nothing else that may lie beside them."""
    present = [path / name for name in CONTENTS if (path / name).exists()]
    present[:0] = path.glob("metrics-*of*.jsonl")
    if present:
        log.warning("%s: starting afresh, deleting the earlier run", shown(path))
    _delete(path, present)


def clear_verdicts(path: Path, recipe: Recipe) -> None:
    """Delete the verdicts that `recipe` has made anew, and what was made of them.

    Where it names another judge but no other guard, that is the evaluation's alone. Verdicts that
    an evaluation has set aside stay in `earlier/`, by a name under which none is taken up again.
    """
    file = path / "config.yaml"
    begun = begun_recipe(path) if file.exists() else recipe
    same_guard = not diff(replace(begun, judge=recipe.judge), recipe, RESUMABLE_KEYS)
    evaluated = [step for step in (path / "evaluation").glob("*") if step.is_dir()]
    made = [path / "report", *(step.with_name(f"{step.name}.json") for step in evaluated)]
    if begun.judging == recipe.judging or not same_guard:
        made += [path / name for name in _OF_GUARD]
    else:
        for folder in training_folders(path):
            of_training = replace(begun_recipe(folder), judge=recipe.judge)
            clear_verdicts(folder, of_training)
            keep_config(of_training, folder)
    made += [step / name for step in evaluated for name in ("rows.jsonl", "verdicts")]
    for folder in (path / "evaluation").glob("*/earlier/verdicts-*"):
        set_aside(folder, folder.with_name(f"replaced-{folder.name}"))
    _delete(path, [item for item in made if item.exists()])


def _delete(path: Path, items: Iterable[Path]) -> None:
    with storage_errors(path):
        for item in items:
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    persist(path)


def refuse_foreign(path: Path) -> None:
    """Raises ConfigError where other files lie than a run's."""
    if (path / "config.yaml").exists() or not path.is_dir():
        return
    known = {*CONTENTS, "lock"}
    ours = re.compile(r"\..*|lock-\d+of\d+")
    names = (p.name for p in path.iterdir())
    others = sorted(name for name in names if name not in known and not ours.fullmatch(name))
    if others:
        raise ConfigError(
            f"{shown(path)} holds other files ({', '.join(others[:3])}) and no run; choose a new "
            "--run-dir"
        )


def refuse_another(
    recipe: Recipe, path: Path, *, other_guards: bool, other_training: bool = False
) -> None:
    """Compare with the configuration that the directory began with (fault 24).

    Args:
        other_guards: guard and judge may be others.
        other_training: the settings of the training may be others.

    Raises:
        ConfigError: another one, save for what may differ; or nothing tells which.
    """
    _refuse_other_data(recipe, path)
    file = path / "config.yaml"
    if file.exists():
        begun = begun_recipe(path)
        if other_guards:
            begun = replace(begun, guard=recipe.guard, judge=recipe.judge)
        if other_training:
            begun = replace(begun, training=recipe.training)
        if changes := diff(begun, recipe, RESUMABLE_KEYS):
            _refuse_changes(path, changes, other_training)
    else:
        left = [n for n in CONTENTS if (path / n).exists()]
        if left:
            raise ConfigError(
                f"{shown(path)} holds {', '.join(left)} but no config.yaml to tell what made them; "
                "use another --run-dir, or --new-run to delete them and start afresh"
            )


def _refuse_changes(path: Path, changes: str, other_training: bool) -> None:
    """Says which settings are others than those that a directory was begun with, and the way out.

    Raises:
        ConfigError: always.
    """
    indented = changes.replace("\n", "\n  ")
    begun = f"{shown(path)} was begun with another configuration:\n  {indented}\n"
    if other_training:
        raise ConfigError(
            f"{begun}--new-training keeps samples, verdicts and dataset, so nothing but training.* "
            "may differ; leave these as they were, or use another --run-dir"
        )
    if data_folder(path) != path:
        raise ConfigError(
            f"{begun}a training keeps its settings; make another: thinksafe train RUN --as NAME"
        )
    keys = [line.partition(":")[0] for line in changes.split("\n") if line[:1] != " "]
    if all(key.startswith("training.") for key in keys):
        raise ConfigError(
            f"{begun}only the training differs: --new-training keeps samples, verdicts and "
            "dataset, and sets the earlier training aside; `thinksafe train RUN --as NAME` makes "
            "another one beside it. Or use another --run-dir, or --new-run to start afresh"
        )
    if all(key.startswith("evaluation.") for key in keys):
        raise ConfigError(
            f"{begun}only the evaluation differs: `thinksafe evaluate {shown(path)} --suite NAME` "
            "asks its student other questions, in a folder beside it. Or use another --run-dir, or "
            "--new-run to delete it and start afresh"
        )
    raise ConfigError(
        f"{begun}use another --run-dir, or --new-run to delete it and start afresh (for another "
        "guard or judge alone, --new-verdicts keeps the samples)"
    )


def _refuse_other_data(recipe: Recipe, path: Path) -> None:
    """Refuses a training whose recipe is not that of the run around it but for `training.*`.

    Raises:
        ConfigError: with the settings that differ.
    """
    run = data_folder(path)
    if run == path:
        return
    begun = replace(begun_recipe(run), training=recipe.training)
    if changes := diff(begun, recipe, RESUMABLE_KEYS):
        indented = changes.replace("\n", "\n  ")
        raise ConfigError(
            f"{shown(path)} is a training of {shown(run)} and uses its data; nothing but "
            f"training.* may differ:\n  {indented}\n"
            "leave these as they were, or begin another run"
        )


def _has_other_training(recipe: Recipe, path: Path) -> bool:
    """Whether a run was begun with other settings of the training."""
    file = path / "config.yaml"
    return file.exists() and bool(
        diff(replace(recipe, training=begun_recipe(path).training), recipe, RESUMABLE_KEYS)
    )


def keep_config(recipe: Recipe, path: Path) -> None:
    """Write config.yaml, unless it is there."""
    file, text = path / "config.yaml", to_yaml(recipe)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        atomic_write(file, text)
