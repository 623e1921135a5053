"""An on-policy run in two processes: the rollouts, rewards and adapter of one process."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support import REPOSITORY, finish_processes, start_processes, two_device_mesh
from thinksafe_jax.config import load_recipe
from thinksafe_jax.pipeline import run_pipeline

pytestmark = pytest.mark.hosts

RECIPE = str(REPOSITORY / "configs/recipes/mini-grpo.yaml")
SMALL = [
    "on_policy.steps=2", "on_policy.samples=4", "on_policy.sampling.max_new_tokens=24",
    "training.batch_size=8", "training.micro_batch_size=4", "training.max_length=96",
    "training.checkpoint_every=1", "training.lora_r=4", "engine.slots=4", "engine.max_length=96",
    "evaluation.sampling.max_new_tokens=24",
]  # fmt: skip


def settings(folder):
    """Two devices: replicas to draw and judge, rows of a pass to train."""
    return [*SMALL, f"mesh={two_device_mesh(folder)}"]


def start(run_dir, changes):
    """(exit code, stdout, stderr) of each of two processes."""
    hosts = ["--coordinator", "{address}", "--processes", "{count}", "--process", "{index}"]
    command = [sys.executable, "-W", "ignore", "-m", "thinksafe_jax", *hosts]
    command += ["train", str(run_dir), "-c", RECIPE, *changes]
    return finish_processes(start_processes(command, 2, 1))


def rollouts(run_dir, step):
    """Text and verdict of each rollout of a step; several files may hold them."""
    told: dict[tuple, dict] = {}
    for file in (run_dir / f"rollouts/step-{step:06d}").rglob("*.jsonl"):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            told.setdefault((row["id"], row["sample"]), {}).update(row)
    return {key: (row["response"], row["verdict"]) for key, row in told.items()}


def steps(run_dir, stage):
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage]


def test_two_processes_train_what_one_trains(tmp_path):
    """Each draws and judges its part; the step is over the rollouts of both."""
    changes = settings(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    stages = ["train", "export"]
    run_pipeline(load_recipe(RECIPE, changes), one, stages=stages)
    done = start(two, changes)
    assert [code for code, _, _ in done] == [0, 0], done
    run_pipeline(load_recipe(RECIPE, changes), two, stages=stages)  # of one process: the export

    for step in (0, 1):
        assert rollouts(one, step) == rollouts(two, step), step
        drawn = {f.name.split("-")[1] for f in two.glob(f"rollouts/step-{step:06d}/samples/*")}
        assert drawn == {"0of2", "1of2"}, "a process drew nothing"
    for ours, theirs in zip(steps(one, "rollout"), steps(two, "rollout"), strict=True):
        for name in ("reward", "unsafe", "length", "rows"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    for ours, theirs in zip(steps(one, "train"), steps(two, "train"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4, abs=1e-6)
        assert theirs["log_p_gap_max"] <= 1e-4
    ours, theirs = (load_file(run / "adapter/adapter_model.safetensors") for run in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=1e-3 * scale)
