"""Another training in a run directory: the earlier one is kept, the data stay, none is mixed."""

import json
import shutil
from dataclasses import replace

import pytest

from tests.runs.test_directory import RECIPE
from thinksafe_jax.config import OnPolicyConfig, load_recipe, to_yaml
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.pipeline import run_pipeline
from thinksafe_jax.runs import Run, data_folder, new_training, training_folder, training_folders

OTHER = replace(RECIPE, training=replace(RECIPE.training, epochs=1))
DATA = {
    "samples/part-00000.jsonl",
    "verdicts/part-00000.jsonl",
    "dataset/train.jsonl",
    "evaluation/datasets.json",
    "evaluation/before.json",
    "evaluation/before/responses/part-00000.jsonl",
    "models.json",
}
OF_TRAINING = {
    "checkpoints/step_00000003/manifest.json",
    "adapter/adapter_model.safetensors",
    "evaluation/after.json",
    "evaluation/after/responses/part-00000.jsonl",
    "report/report.html",
}
STAGES = ("sample", "filter", "train", "export", "evaluate", "report")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run directory with everything that a finished run holds."""
    with Run.open(RECIPE, tmp_path_factory.mktemp("finished") / "run") as run:
        for name in DATA | OF_TRAINING:
            file = run.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(name, encoding="utf-8")
        for stage in STAGES:
            run.mark_done(stage, f"hash of {stage}")
        run.log("sample", rows=2)
        run.log("evaluate", name="before", rows=2)
        run.log("train", step=1, loss=2.0)
        run.log("evaluate", name="after", rows=2)
    return run.path


@pytest.fixture
def trained(finished, tmp_path):
    """One to train anew."""
    return shutil.copytree(finished, tmp_path / "run")


def files(folder) -> dict[str, str]:
    """What a run and its trainings made: {path: content}, without what every start rewrites."""
    at_top = {"config.yaml", "manifest.json", "lock", "metrics.jsonl"}
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in at_top)
    return {p.relative_to(folder).as_posix(): p.read_text() for p in paths} | {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("step*/manifest.json")
    }


def stages(folder) -> set[str]:
    return {*json.loads((folder / "manifest.json").read_text())["stages"]}


def logged(folder) -> list[tuple]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["stage"], line.get("name")) for line in lines]


KEPT = {f"trainings/training-1/{name}" for name in OF_TRAINING}
COPIED = {f"trainings/training-1/{name}" for name in DATA if name.startswith("evaluation/")}


def require_moved(path):
    """The run has its data and no training; what it had is a training that is whole."""
    earlier = path / "trainings/training-1"
    assert files(path) == {
        name: name.removeprefix("trainings/training-1/") for name in DATA | KEPT | COPIED
    }
    assert stages(path) == {"sample", "filter"}
    assert stages(earlier) == {"train", "export", "evaluate", "report"}
    assert logged(path) == [("sample", None), ("evaluate", "before")]
    assert len(logged(earlier)) == 4
    assert (path / "config.yaml").read_text() == to_yaml(OTHER)
    assert (earlier / "config.yaml").read_text() == to_yaml(RECIPE)


def test_the_earlier_training_is_kept_whole_and_the_data_stay(trained, caplog):
    with Run.open(OTHER, trained, new_training=True):
        require_moved(trained)
    assert "the earlier training is kept as" in caplog.text
    with Run.open(OTHER, trained, new_training=True):  # again: nothing differs any more
        require_moved(trained)
    with Run.open(RECIPE, trained / "trainings/training-1") as run:  # and can be gone on with
        assert run.data == trained
        assert run.is_done("sample", "hash of sample") and run.is_done("train", "hash of train")


def test_each_further_training_has_a_folder_of_its_own(trained):
    for epochs in (1, 2):
        recipe = replace(RECIPE, training=replace(RECIPE.training, epochs=epochs))
        with Run.open(recipe, trained, new_training=True):
            (trained / "adapter").mkdir()
    assert [folder.name for folder in training_folders(trained)] == ["training-1", "training-2"]


def test_a_run_that_was_not_trained_leaves_nothing_behind(tmp_path):
    with Run.open(RECIPE, tmp_path):
        pass
    with Run.open(OTHER, tmp_path, new_training=True):
        assert load_recipe(tmp_path / "config.yaml") == OTHER
    assert not (tmp_path / "trainings").exists()


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


STEPS = ("atomic_write", "prepare_directory", "set_aside", "persist")


def kill_at(number: int, monkeypatch):
    """Dies before the n-th thing that `new_training` does on the disk."""
    done = 0

    def counted(real):
        def step(*arguments):
            nonlocal done
            done += 1
            if done == number:
                raise Killed
            return real(*arguments)

        return step

    for name in STEPS:
        monkeypatch.setattr(new_training, name, counted(getattr(new_training, name)))


def begin(path):
    new_training.begin_new_training(path, to_yaml(OTHER))


@pytest.mark.parametrize("number", range(1, 24))
def test_killed_at_any_step_the_next_start_has_one_training_or_the_other(
    trained, monkeypatch, number
):
    before = files(trained)
    with monkeypatch.context() as patched:
        kill_at(number, patched)
        try:
            begin(trained)
        except Killed:
            pass
        else:
            assert number > 18, "there are so many steps"
    new_training.finish_move(trained)  # what every start begins with
    if (trained / "config.yaml").read_text() == to_yaml(RECIPE):
        assert files(trained) == before and stages(trained) == {*STAGES}
        begin(trained)
    require_moved(trained)


@pytest.mark.parametrize(("number", "next_recipe"), [(4, RECIPE), (12, OTHER)])
def test_a_start_without_the_option_completes_what_had_begun(
    trained, monkeypatch, number, next_recipe
):
    with monkeypatch.context() as patched:
        kill_at(number, patched)
        with pytest.raises(Killed), Run.open(OTHER, trained, new_training=True):
            pass
    with Run.open(next_recipe, trained):
        assert (trained / "trainings/training-1").exists() == (next_recipe == OTHER)
        assert (trained / "adapter").exists() == (next_recipe == RECIPE)


def test_settings_that_touch_the_data_are_named(trained):
    other = replace(OTHER, seed=7)
    with (
        pytest.raises(ConfigError, match=r"seed: 42 -> 7\n--new-training keeps samples"),
        Run.open(other, trained, new_training=True),
    ):
        pass
    assert files(trained).keys() == DATA | OF_TRAINING


def test_what_keeps_no_data_is_refused_before_anything(tmp_path):
    loop = replace(RECIPE, on_policy=OnPolicyConfig(method="opd"))
    with pytest.raises(ConfigError, match=r"--new-training .* on_policy\.method opd"):
        run_pipeline(loop, tmp_path / "run", new_training=True)
    with pytest.raises(ConfigError, match="without --new-run or --new-verdicts"):
        run_pipeline(RECIPE, tmp_path / "run", new_training=True, new_verdicts=True)
    assert not (tmp_path / "run").exists()


def test_a_training_has_the_data_of_its_run_and_no_other(trained):
    folder = training_folder(trained, "hot")
    assert data_folder(folder) == trained and data_folder(trained) == trained
    with Run.open(OTHER, folder) as run:
        assert (run.path, run.data) == (folder, trained)
        with pytest.raises(ConfigError, match="in use"), Run.open(RECIPE, trained):
            pass  # or the data could change under the training
        with Run.open(OTHER, training_folder(trained, "cold")):
            pass  # trainings may go on side by side
    with (
        pytest.raises(ConfigError, match=r"uses its data; .*\n +seed: 42 -> 7"),
        Run.open(replace(OTHER, seed=7), folder),
    ):
        pass
    with pytest.raises(ConfigError, match="train RUN --as NAME"), Run.open(RECIPE, folder):
        pass


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", "x" * 201])
def test_a_training_has_the_name_of_one_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="--as: "):
        training_folder(tmp_path, name)


def test_other_verdicts_make_the_trainings_void(trained):
    with Run.open(OTHER, training_folder(trained, "hot")):
        pass
    guard = replace(RECIPE.guard, kind="wildguard", model="allenai/wildguard")
    with Run.open(replace(RECIPE, guard=guard), trained, new_verdicts=True):
        assert not training_folders(trained)


def test_another_judge_judges_the_trainings_anew_as_well(trained):
    folder = training_folder(trained, "hot")
    with Run.open(OTHER, folder):
        for name in ("adapter/x", "evaluation/after.json", "evaluation/after/verdicts/part"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("")
    judge = replace(RECIPE.guard, kind="wildguard", model="allenai/wildguard")
    with Run.open(replace(RECIPE, judge=judge), trained, new_verdicts=True):
        pass
    assert files(folder).keys() == {"adapter/x"}
    assert load_recipe(folder / "config.yaml") == replace(OTHER, judge=judge)
