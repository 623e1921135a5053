"""`thinksafe run` in two processes: the same rows, dataset and adapter as in one."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support import REPOSITORY, finish_processes, start_processes, two_device_mesh
from thinksafe_jax.config import load_recipe
from thinksafe_jax.pipeline import run_part, run_pipeline
from thinksafe_jax.runs import Part

pytestmark = pytest.mark.hosts

RECIPE = str(REPOSITORY / "configs/recipes/mini.yaml")
SMALL = [
    "synthesis.limit=12", "synthesis.ladder=[]", "synthesis.attempts=2", "engine.slots=8",
    "evaluation.over_refusal.0.limit=4", "evaluation.reasoning=[]", "evaluation.harmful.0.limit=4",
    "evaluation.suites=[]", "training.epochs=1", "training.lora_dropout=0", "training.lora_r=4",
]  # fmt: skip


def settings(folder):
    """Two devices: replicas to generate, rows of a pass to train."""
    return [*SMALL, f"mesh={two_device_mesh(folder)}"]


def start(run_dir, changes, count=2, **environment):
    """(exit code, stdout, stderr) of `thinksafe run` in each process."""
    where = ["--coordinator", "{address}", "--processes", "{count}", "--process", "{index}"]
    command = [sys.executable, "-W", "ignore", "-m", "thinksafe_jax", *where]
    command += ["run", "-c", RECIPE, "--run-dir", str(run_dir), *changes]
    return finish_processes(start_processes(command, count, 1, **environment))


def rows(folder):
    """What each row says; the guard's probabilities may differ in their last digit."""
    files = folder.rglob("part-*.jsonl")
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    told = ("suite", "id", "attempt", "response", "finish_reason", "verdict", "asked_scope")
    return sorted([str(row.get(name)) for name in told] for row in found)


def test_two_processes_make_what_one_makes(tmp_path):
    """They go on where one of three parts was sampled before: the number of hosts may change."""
    changes = settings(tmp_path)
    recipe = load_recipe(RECIPE, changes)
    one, two = tmp_path / "one", tmp_path / "two"
    run_pipeline(recipe, one)
    run_part(recipe, two, Part(1, 3))
    assert len(list(two.glob("samples/part-1of3-*"))) > 0 and not (two / "dataset").exists()
    done = start(two, changes)
    assert [code for code, _, _ in done] == [0, 0], done

    for name in ("samples", "verdicts", "evaluation"):
        assert rows(one / name) == rows(two / name), name
    assert {p.name.split("-")[1] for p in two.glob("samples/*")} == {"0of2", "1of2", "1of3"}
    texts = [(run / "dataset/train.jsonl").read_bytes() for run in (one, two)]
    assert texts[0] == texts[1]
    for name in ("before", "after"):
        texts = [(run / f"evaluation/{name}.json").read_text() for run in (one, two)]
        assert texts[0] == texts[1]
    ours, theirs = (load_file(run / "adapter/adapter_model.safetensors") for run in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=1e-3 * scale)

    assert ["report:" in printed for _, printed, _ in done] == [True, False]
    lines = (two / "metrics.jsonl").read_text().splitlines()
    written = [json.loads(line)["stage"] for line in lines]
    assert written.count("train") == 2 and not list(two.glob("metrics-0of2*"))
    before = {p: p.stat().st_mtime_ns for p in two.rglob("*") if p.is_file()}
    run_pipeline(recipe, two)  # one process finds nothing left to do
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed <= {"lock", "manifest.json"}


def test_other_settings_on_one_host_are_refused_before_work_begins(tmp_path):
    changes = [*settings(tmp_path), "training.epochs=3{index}"]
    done = start(tmp_path / "run", changes)
    assert [code for code, _, _ in done] == [2, 2]
    for _, _, errors in done:
        assert "the hosts differ in their config" in errors
        assert "training.epochs is 31 on process 1 (" in errors and "30 on process 0" in errors
    assert not list(tmp_path.glob("run/*"))


def test_a_run_directory_that_not_all_see_is_refused(tmp_path):
    changes = settings(tmp_path)
    apart = start(tmp_path / "run-{index}", changes, THINKSAFE_LAG_LIMIT="1")
    assert [code for code, _, _ in apart] == [4, 4]
    assert all("is not the directory that process 0" in errors for _, _, errors in apart)


def test_a_host_that_never_starts_is_named(tmp_path):
    limit = {"THINKSAFE_START_LIMIT": "4"}
    where = ["--coordinator", "{address}", "--processes", "2", "--process", "0"]
    command = [sys.executable, "-m", "thinksafe_jax", *where, "run", "-c", RECIPE]
    ((code, _, errors),) = finish_processes(start_processes(command, 1, 1, **limit))
    assert code == 4
    assert "1 of 2 processes joined within 4 s; missing: process 1." in errors.replace("\n", " ")
    assert "Was the command started on all hosts (gcloud: --worker=all, Slurm: srun)?" in errors
