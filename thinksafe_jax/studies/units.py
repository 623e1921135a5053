"""Which runs a study is made of, in two rounds, and where each lies.

    STUDY_DIR/runs/METHOD/SETTING/seed-N                   an ordinary run, up to its export
    STUDY_DIR/runs/METHOD/DATA/seed-N/trainings/SETTING    the same, of a grid over `training.*`
    STUDY_DIR/evaluations/SPLIT/METHOD/SETTING/seed-N      what it says to a split's questions

Settings that differ in `training.*` alone would sample the very same rows. They are trainings of
one run (see runs/training_folders.py), DATA, which is named by the rest of the grid.

The first round asks the validation split of every setting of the methods that have several. Then
the rule chooses, and the second round asks the held-out split of the chosen settings alone. A run
that both rounds need is trained once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from thinksafe_jax.config import Recipe
from thinksafe_jax.runs import training_folder
from thinksafe_jax.studies.study_file import INITIAL, DataRun, Method, Setting, Study

STAGES = ("sample", "guard", "train")  # what a run costs is told by these
UNTOUCHED = "untouched"  # the setting of the student that is not trained


@dataclass(frozen=True)
class Unit:
    """One seed of a setting, and the split that it is asked.

    Attributes:
        run: what trains it; None for the student as it was.
        evaluation: what asks it.
        data: the run whose samples it trains on; None where they are its own.
    """

    method: str
    setting: str
    seed: int
    split: str
    run: Recipe | None
    evaluation: Recipe
    data: DataRun | None = None

    @property
    def name(self) -> str:
        """`ThinkSafe/learning_rate=0.0005/seed-1`, a path below each kind of folder."""
        return f"{self.method}/{self.setting}/seed-{self.seed}"

    def own_folder(self, root: Path) -> Path:
        """A run that shares nothing, as that of every setting was before data were shared."""
        return root / "runs" / self.name

    def data_run(self, root: Path) -> tuple[Path, DataRun] | None:
        """(directory, run) of the samples that it trains on; None where they are its own."""
        if self.data is None or (self.own_folder(root) / "config.yaml").exists():
            return None
        return root / "runs" / self.method / self.data.name / f"seed-{self.seed}", self.data

    def run_folder(self, root: Path) -> Path | None:
        """Where it is trained, opened as a run directory is."""
        if self.run is None:
            return None
        if shared := self.data_run(root):
            folder, data = shared
            return training_folder(folder, data.training)
        return self.own_folder(root)

    def evaluation_folder(self, root: Path) -> Path:
        return root / "evaluations" / self.split / self.name

    def failure_file(self, root: Path) -> Path:
        """Why it cannot be done, where it cannot."""
        return root / "failures" / self.split / f"{self.name}.json"


def validation_units(study: Study) -> list[Unit]:
    """The first round; nothing where no method has two settings."""
    choosing = [method for method in study.methods if len(method.settings) > 1]
    if not choosing:
        return []
    units = []
    for seed in study.choosing_seeds:
        units.append(_initial(study, seed, "validation"))
        units += [
            _unit(study, method, setting, seed, "validation")
            for method in choosing
            for setting in method.settings
        ]
    return units


def heldout_units(study: Study, chosen: Mapping[str, str | None] | None = None) -> list[Unit]:
    """The second round.

    Args:
        chosen: method -> its setting; a method without one is left out. Before anything is chosen:
            all that may be in it, every setting.
    """
    units = []
    for seed in study.config.seeds:
        units.append(_initial(study, seed, "heldout"))
        units += [
            _unit(study, method, setting, seed, "heldout")
            for method in study.methods
            for setting in method.settings
            if chosen is None or setting.name == chosen[method.name]
        ]
    return units


def _unit(study: Study, method: Method, setting: Setting, seed: int, split: str) -> Unit:
    name = f"{method.name}, {setting.name}, seed {seed}"
    run = replace(setting.recipe, seed=seed, name=name)
    evaluation = study.evaluation_recipe(run, split, seed, f"{name}, {split}")
    data = setting.data
    if data is not None:
        title = f"{method.name}, {data.name}, seed {seed}"
        data = replace(data, recipe=replace(data.recipe, seed=seed, name=title))
    return Unit(method.name, setting.name, seed, split, run, evaluation, data)


def _initial(study: Study, seed: int, split: str) -> Unit:
    recipe = study.methods[0].settings[0].recipe
    name = f"{INITIAL}, seed {seed}, {split}"
    evaluation = study.evaluation_recipe(recipe, split, seed, name)
    return Unit(INITIAL, UNTOUCHED, seed, split, None, evaluation)
