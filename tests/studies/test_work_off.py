"""Who takes which run: locks, failures, and runs of an earlier edition of the study."""

import json
import logging
import subprocess
import sys
import time

import pytest
import yaml

from tests.cli.test_cli import exit_code
from tests.studies.example_study import write_study
from thinksafe_jax.config import to_yaml
from thinksafe_jax.errors import (
    ConfigError,
    EnvironmentFault,
    InputError,
    InUse,
    MissingRequirement,
)
from thinksafe_jax.pipeline import FaultList
from thinksafe_jax.runs.manifest import Manifest
from thinksafe_jax.storage import RunLock
from thinksafe_jax.studies import inputs, load_study, run_study, work_off
from thinksafe_jax.studies.units import heldout_units, validation_units


@pytest.fixture
def units(write):
    """The second round of a study of two methods and two seeds, and a list of what was done."""
    study = load_study(write())
    return heldout_units(
        study, {"ThinkSafe": "learning_rate=0.0001,epochs=1", "DirectRefusal": "as-it-is"}
    )


@pytest.fixture
def done(monkeypatch):
    """What stands in for training and evaluation writes down the order in which it was asked."""
    names = []
    monkeypatch.setattr(work_off, "run_pipeline", lambda recipe, path, stages: None)
    monkeypatch.setattr(
        work_off, "evaluate_student", lambda recipe, out, tuned: names.append(recipe.name)
    )
    monkeypatch.setattr(work_off, "_WAIT", 0.05)
    return names


def test_what_is_there_is_said_once_with_the_methods_that_it_is_of(
    write, tmp_path, monkeypatch, caplog
):
    def look(session, folder, stages, *, keeps, say):
        synthesis, training = session.recipe.synthesis, session.recipe.training
        say(f"{synthesis.method}, {training.epochs} epochs", "the run in all: too much")
        return FaultList()

    monkeypatch.setattr(inputs, "preflight", look)
    caplog.set_level(logging.INFO)
    methods = [
        {"name": name, "recipe": "mini", "grid": {"training.epochs": [1, 2]}} for name in "AB"
    ]
    methods.append(
        {"name": "C", "recipe": "mini_direct_refusal", "overrides": ["training.epochs=7"]}
    )
    methods[1]["overrides"] = ["synthesis.limit=50"]
    inputs.check_inputs(load_study(write(methods=methods)), tmp_path)
    assert caplog.messages == [
        "A; B: all is there: thinksafe, 1 epochs",
        "A; B: all is there: thinksafe, 2 epochs",
        "C: all is there: direct-refusal, 7 epochs",
    ]


def test_what_a_setting_lacks_is_said_as_the_run_would_say_it(write, tmp_path, monkeypatch):
    def look(*_, **__):
        faults = FaultList()
        faults.note(MissingRequirement("accept the licence"), "guard.model")
        return faults

    monkeypatch.setattr(inputs, "preflight", look)
    with pytest.raises(MissingRequirement) as caught:
        inputs.check_inputs(load_study(write()), tmp_path)
    # scripts that start again look for the word at its beginning
    assert str(caught.value) == (
        "missing: ThinkSafe, learning_rate=0.0001,epochs=1: guard.model: accept the licence"
    )


def test_a_study_file_that_names_a_bucket_is_refused(write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = write(study_dir="gs://bucket/study")
    assert exit_code(monkeypatch, "study", file) == 2
    assert "gs://bucket/study: this is written to a disk only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_every_unit_is_done_once_and_training_ends_at_the_export(
    units, done, tmp_path, monkeypatch
):
    stages = []
    monkeypatch.setattr(
        work_off, "run_pipeline", lambda recipe, path, **options: stages.append(options["stages"])
    )
    work_off.work_off(units, tmp_path)
    assert done == [unit.evaluation.name for unit in units] and len(done) == 6
    shared, own = (
        [("sample", "filter"), ["train", "export"]],
        ["sample", "filter", "train", "export"],
    )
    assert stages == 2 * [*shared, own]  # ThinkSafe has a grid over its training


def test_settings_that_differ_in_their_training_alone_are_trainings_of_one_run(
    write, done, tmp_path, monkeypatch
):
    ran = []
    monkeypatch.setattr(
        work_off, "run_pipeline", lambda recipe, path, stages: ran.append((path, recipe))
    )
    methods = [
        {
            "name": "Both",
            "recipe": "mini",
            "overrides": ["synthesis.ladder=[]"],
            "grid": {"synthesis.attempts": [1, 2], "training.epochs": [1, 2]},
        }
    ]
    units = [u for u in validation_units(load_study(write(methods=methods))) if u.run is not None]
    work_off.work_off(units, tmp_path)
    assert [path.relative_to(tmp_path / "runs/Both").as_posix() for path, _ in ran] == [
        "attempts=1/seed-1", "attempts=1/seed-1/trainings/epochs=1",
        "attempts=1/seed-1", "attempts=1/seed-1/trainings/epochs=2",
        "attempts=2/seed-1", "attempts=2/seed-1/trainings/epochs=1",
        "attempts=2/seed-1", "attempts=2/seed-1/trainings/epochs=2",
    ]  # fmt: skip
    assert [recipe.synthesis.attempts for _, recipe in ran] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert [recipe.training.epochs for _, recipe in ran][1::2] == [1, 2, 1, 2]


def test_on_policy_methods_share_nothing(write):
    grid = {"training.learning_rate": [1e-3, 2e-3]}
    study = load_study(write(methods=[{"name": "GRPO", "recipe": "mini-grpo", "grid": grid}]))
    assert all(unit.data is None for unit in validation_units(study))


def test_a_run_begun_before_data_were_shared_is_gone_on_with(units, tmp_path):
    unit = units[1]
    shared = unit.run_folder(tmp_path)
    assert shared == tmp_path / (
        "runs/ThinkSafe/as-it-is/seed-1/trainings/learning_rate=0.0001,epochs=1"
    )
    before = tmp_path / "runs" / unit.name
    before.mkdir(parents=True)
    (before / "config.yaml").write_text(to_yaml(unit.run))
    assert unit.run_folder(tmp_path) == before and unit.data_run(tmp_path) is None


def test_data_that_another_process_trains_on_are_trained_on_beside_it(
    units, done, tmp_path, monkeypatch
):
    """Nobody can look at them meanwhile; the other process has done so before it began."""
    folder, _ = units[1].data_run(tmp_path)
    ran = []

    def run(recipe, path, stages):
        if path == folder:
            raise InUse("in use")
        ran.append(path)

    monkeypatch.setattr(work_off, "run_pipeline", run)
    assert not work_off._attempt(units[1], tmp_path)  # they are not there yet
    manifest = Manifest(folder / "manifest.json", "")
    for stage in ("sample", "filter"):
        manifest.mark_done(stage, "", {})
    assert work_off._attempt(units[1], tmp_path)
    assert ran == [units[1].run_folder(tmp_path)]


def test_samples_that_another_process_makes_are_waited_for(units, done, tmp_path):
    folder, _ = units[1].data_run(tmp_path)
    folder.mkdir(parents=True)
    lock = RunLock(folder / "lock")
    try:
        assert not work_off._is_free(units[1], tmp_path)
    finally:
        lock.release()
    assert work_off._is_free(units[1], tmp_path)


def test_another_training_keeps_the_samples_and_other_samples_set_all_aside(tmp_path):
    write_study(tmp_path)
    file, text = tmp_path / "three.yaml", (tmp_path / "three.yaml").read_text()

    def edit(overrides):
        edited = f"recipe: mini\n  overrides: [{overrides}]"
        file.write_text(text.replace("recipe: mini\n", f"{edited}\n"))
        work_off.set_changed_aside(validation_units(load_study(file)), tmp_path)
        return sorted(p.parent.name for p in (tmp_path / "earlier").rglob("config.yaml"))

    rates = ["learning_rate=0.0001", "learning_rate=0.0005", "learning_rate=0.002"]
    assert edit("training.epochs=2") == sorted(2 * rates)  # of both seeds
    assert (tmp_path / "runs/ThinkSafe/as-it-is/seed-1/config.yaml").exists()
    assert edit("synthesis.limit=5") == sorted([*2 * rates, "seed-1.2", "seed-2.2"])


def test_a_run_that_another_process_holds_is_left_to_it_and_taken_when_it_lets_go(
    units, done, tmp_path
):
    folder = units[1].run_folder(tmp_path)
    folder.mkdir(parents=True)
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a+b'); "
        "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "lock")], stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        assert not work_off._attempt(units[1], tmp_path)
        began = time.monotonic()
        other.kill()  # a killed holder is no holder
        work_off.work_off(units, tmp_path)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert units[1].evaluation.name in done and len(done) == 6
    assert time.monotonic() - began < 20


def test_a_lock_taken_in_the_last_moment_leaves_the_unit_waiting(units, tmp_path, monkeypatch):
    def taken(*_, **__):
        raise InUse("in use")

    monkeypatch.setattr(work_off, "run_pipeline", taken)
    assert not work_off._attempt(units[1], tmp_path)
    assert work_off.failure(units[1], tmp_path) is None


def test_bad_input_fails_the_unit_and_not_the_study(units, done, tmp_path, monkeypatch, caplog):
    def train(recipe, path, stages):
        if recipe.synthesis.method == "direct-refusal":
            raise InputError("no row can be trained on")

    monkeypatch.setattr(work_off, "run_pipeline", train)
    work_off.work_off(units, tmp_path)
    assert len(done) == 4
    failed = [unit for unit in units if work_off.failure(unit, tmp_path)]
    assert [(u.method, u.seed) for u in failed] == [("DirectRefusal", 1), ("DirectRefusal", 2)]
    work_off.work_off(units, tmp_path)  # it is not tried again, what is done asks its directory
    assert len(done) == 8
    other = dict(vars(failed[0])) | {"run": failed[1].run}
    assert work_off.failure(type(failed[0])(**other), tmp_path) is None  # another recipe by now


@pytest.mark.parametrize("error", [EnvironmentFault("disk full"), ConfigError("no such mesh")])
def test_what_is_no_fault_of_a_run_ends_the_study(units, tmp_path, monkeypatch, error):
    def train(*_, **__):
        raise error

    monkeypatch.setattr(work_off, "run_pipeline", train)
    monkeypatch.setattr(work_off, "evaluate_student", lambda recipe, out, tuned: None)
    with pytest.raises(type(error)):
        work_off.work_off(units, tmp_path)
    assert not (tmp_path / "failures").exists()


def test_an_edited_study_keeps_what_is_unchanged_and_sets_the_rest_aside(tmp_path):
    write_study(tmp_path)
    file = tmp_path / "three.yaml"
    changed = "recipe: mini_direct_refusal\n  overrides: [training.epochs=2]"
    file.write_text(file.read_text().replace("recipe: mini_direct_refusal", changed))
    edited = load_study(file)
    chosen = {"ThinkSafe": "learning_rate=0.0005", "DirectRefusal": "as-it-is"}
    work_off.set_changed_aside(
        [*validation_units(edited), *heldout_units(edited, chosen)], tmp_path
    )
    moved = sorted(p.parent.name for p in (tmp_path / "earlier").rglob("config.yaml"))
    assert moved == ["seed-1", "seed-2", "seed-3"]
    assert (tmp_path / "earlier/runs/DirectRefusal/as-it-is/seed-1/metrics.jsonl").exists()
    assert not (tmp_path / "runs/DirectRefusal/as-it-is/seed-1").exists()
    assert len(list(tmp_path.glob("runs/ThinkSafe/*/*/trainings/*/config.yaml"))) == 7


def test_changed_runs_of_the_second_round_are_set_aside_before_the_first_begins(
    tmp_path, monkeypatch
):
    """A helper that ends the first round sooner would meet them there."""
    study = write_study(tmp_path)
    file = tmp_path / "three.yaml"
    file.write_text(file.read_text().replace("mini_direct_refusal", "mini_kl"))
    chosen = {"ThinkSafe": "learning_rate=0.0005", "DirectRefusal": "as-it-is"}
    evaluation = heldout_units(study, chosen)[1].evaluation_folder(tmp_path)
    (evaluation / "config.yaml").write_text("name: of another edition\n")

    def first_round(*_):
        raise EnvironmentFault("stopped here")

    monkeypatch.setattr(inputs, "check_inputs", lambda study, root: None)
    monkeypatch.setattr(work_off, "work_off", first_round)
    with pytest.raises(EnvironmentFault, match="stopped here"):
        run_study(load_study(file), tmp_path)
    assert not list((tmp_path / "runs/DirectRefusal").rglob("config.yaml"))
    assert not evaluation.exists()
    assert len(list(tmp_path.glob("runs/ThinkSafe/*/*/trainings/*/config.yaml"))) == 7


def test_a_changed_run_that_is_at_work_is_not_moved(tmp_path):
    write_study(tmp_path)
    file = tmp_path / "three.yaml"
    file.write_text(file.read_text().replace("recipe: mini\n", "recipe: mini_kl\n"))
    edited = load_study(file)
    units = validation_units(edited)
    folder, _ = units[1].data_run(tmp_path)
    for at_work in (folder, units[1].run_folder(tmp_path)):  # it samples; it trains on the samples
        lock = RunLock(at_work / "lock")
        try:
            with pytest.raises(InUse, match="was begun with another recipe and is in use"):
                work_off.set_changed_aside(units, tmp_path)
        finally:
            lock.release()


@pytest.mark.slow
def test_a_study_runs_to_its_page_and_a_second_time_does_nothing(tmp_path):
    asked = {"judge": "mini", "sampling": {"max_new_tokens": 128}}
    content = {
        "seeds": [1],
        "overrides": ["engine.slots=8", "synthesis.limit=8", "training.epochs=1"],
        "choose": {"rule": "minimise harm"},
        "validation": {**asked, "harmful": [{"path": "mini:heldout-harmful", "limit": 4}]},
        "heldout": {
            **asked,
            "harmful": [{"path": "mini:heldout-harmful", "start": 4, "limit": 5}],
            "reasoning": [{"path": "mini:heldout-arithmetic", "limit": 3}],
        },
        "methods": [
            {
                "name": "DirectRefusal",
                "recipe": "mini_direct_refusal",
                "grid": {"training.learning_rate": [1e-4, 1e-2]},
            }
        ],
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    root = tmp_path / "study"
    results = run_study(load_study(file), root)
    assert results is not None and results["dropped"] == []
    _, method = results["methods"]
    assert method["setting"] in ("learning_rate=0.0001", "learning_rate=0.01")
    assert method["measures"]["harm"]["n"] == 5 and method["measures"]["reasoning"]["n"] == 3
    assert method["cost"]["steps"] == 1 and method["cost"]["seconds"]["train"] > 0
    data = root / "runs/DirectRefusal/as-it-is/seed-1"  # both rates train on it
    assert (data / "dataset").is_dir() and not (data / "adapter").exists()
    assert len(list(data.glob("trainings/*/adapter/*.safetensors"))) == 2
    assert method["shared_by"] == 2
    assert len(list(root.glob("evaluations/heldout/DirectRefusal/*"))) == 1  # the chosen alone
    page = (root / "study.html").read_bytes()
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.safetensors")}
    assert run_study(load_study(file), root) == results
    assert (root / "study.html").read_bytes() == page
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.safetensors")} == before
    assert json.loads((root / "results.json").read_text()) == results
