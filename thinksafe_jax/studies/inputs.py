"""What is refused before anything runs: what a setting lacks, and splits that share prompts."""

import logging
from collections.abc import Mapping
from pathlib import Path

from thinksafe_jax.config import Recipe
from thinksafe_jax.data import Question, load_questions
from thinksafe_jax.errors import EnvironmentFault, InputError, ThinkSafeError, quoted
from thinksafe_jax.pipeline import Session, preflight, stages_of
from thinksafe_jax.runs import DATA_STAGES, finished_stages
from thinksafe_jax.studies.study_file import SPLITS, Method, Setting, Study, apart_from_rates
from thinksafe_jax.studies.units import Unit, heldout_units, validation_units
from thinksafe_jax.studies.work_off import is_another

_log = logging.getLogger(__name__)


def check_inputs(study: Study, root: Path) -> None:
    """Looks for all that every setting needs, as `thinksafe check` does, and at the splits.

    Settings that differ in their rates alone need the same, and are looked at once.

    Args:
        root: STUDY_DIR; stages that all runs of a setting have finished there need nothing.

    Raises:
        ThinkSafeError: all that the first setting lacks which cannot be run.
        InputError: a question is in both splits.
    """
    looked_at = set()
    there: dict[str, list[str]] = {}  # {what is there: the methods that need it}
    for method in study.methods:
        for setting in method.settings:
            folder, done = _least_done(study, method, setting, root)
            needs = repr(apart_from_rates(setting.recipe)), done
            if needs not in looked_at:
                looked_at.add(needs)
                for seen in _look(f"{method.name}, {setting.name}", setting.recipe, folder, done):
                    there.setdefault(seen, []).append(method.name)
    for seen, methods in there.items():
        _log.info("%s: all is there: %s", "; ".join(dict.fromkeys(methods)), seen)
    asked = {split: _questions(study, split) for split in SPLITS}
    shared = asked["validation"].keys() & asked["heldout"].keys()
    if shared:
        example = asked["validation"][min(shared)]
        raise InputError(
            f"{study.path}: {len(shared):,} prompts are in validation and in heldout as well, such "
            f"as {quoted(example.prompt)} ({example.suite}); settings would be chosen by what the "
            "table reports. Take another file, or other rows of it (start, limit)"
        )


def _least_done(
    study: Study, method: Method, setting: Setting, root: Path
) -> tuple[Path, frozenset[str]]:
    """The run of a setting that has finished the fewest stages, and these stages.

    The seeds of the second round are looked at too: the setting may be the chosen one.
    """
    runs = [
        (folder, _finished(unit, root))
        for unit in (*validation_units(study), *heldout_units(study))
        if (unit.method, unit.setting) == (method.name, setting.name)
        if unit.run is not None and (folder := unit.run_folder(root)) is not None
    ]
    return min(runs, key=lambda run: len(run[1]))


def _finished(unit: Unit, root: Path) -> frozenset[str]:
    """Stages that a unit keeps; none of a run that was begun with another recipe."""
    run, done = unit.run_folder(root), set[str]()
    if run is not None and unit.run is not None and not is_another(run, unit.run):
        done |= finished_stages(run)
    if shared := unit.data_run(root):
        folder, data = shared
        kept = not is_another(folder, data.recipe, any_training=True)
        done |= finished_stages(folder).intersection(DATA_STAGES if kept else ())
    return frozenset(done)


def _look(name: str, recipe: Recipe, folder: Path, done: frozenset[str]) -> list[str]:
    """What is there of what a setting needs, in one text; none where it needs nothing more.

    What the preflight says of the cost is not taken: a study evaluates its runs elsewhere.
    """
    seen: list[str] = []

    def say(there: str, _cost: str | None) -> None:
        seen.append(there)

    try:
        preflight(Session(recipe), folder, stages_of(recipe), keeps=done, say=say).refuse()
    except ThinkSafeError as error:
        raise type(error)(f"{name}: {error.args[0]}") from None
    return seen


def _questions(study: Study, split: str) -> Mapping[str, Question]:
    """Questions by their text, but for case and spaces."""
    try:
        items = load_questions(getattr(study.config, split)).items
    except EnvironmentFault as error:
        _log.warning("the questions of %s are not compared: %s", split, error)
        return {}
    return {_plain(item.prompt): item for item in items}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
