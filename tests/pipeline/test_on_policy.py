"""An on-policy run through the command line: killed ten times, continued, refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY, xla_flags
from thinksafe_jax.pipeline import run_pipeline
from thinksafe_jax.runs import begun_recipe

pytestmark = pytest.mark.slow

# two steps of eight rollouts: the files and the code paths are those of a whole run
SMALL = [
    "on_policy.steps=2",
    "on_policy.samples=4",
    "on_policy.sampling.max_new_tokens=24",
    "training.batch_size=8",
    "training.micro_batch_size=4",
    "training.max_length=96",
    "training.checkpoint_every=1",
    "engine.slots=8",
    "engine.max_length=96",
    "evaluation.sampling.max_new_tokens=24",
]


@pytest.fixture(scope="module")
def environment():
    """One device."""
    return {**os.environ, "XLA_FLAGS": xla_flags(devices=1)}


def train(run_dir: Path, environment, *more, recipe="mini-grpo", fault=""):
    command = [sys.executable, "-m", "thinksafe_jax", "train", str(run_dir)]
    command += ["--config", str(REPOSITORY / f"configs/recipes/{recipe}.yaml"), *SMALL, *more]
    faulty = {"THINKSAFE_FAULT": fault} if fault else {}
    return subprocess.run(command, env=environment | faulty, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    done = train(run_dir, environment)
    assert done.returncode == 0, done.stderr
    return run_dir


def rows(run_dir: Path) -> list[str]:
    """All rollouts and verdicts, sorted: the order of finishing is not part of the result."""
    files = (run_dir / "rollouts").rglob("*.jsonl")
    return sorted(line for file in files for line in file.read_text().split("\n") if line)


def adapter(run_dir: Path) -> bytes:
    """What training ended with, as users get it."""
    run_pipeline(begun_recipe(run_dir), run_dir, stages=["export"])
    return (run_dir / "adapter/adapter_model.safetensors").read_bytes()


def metrics(run_dir: Path, stage: str) -> list[dict]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage]


def test_ten_kills_in_rollouts_and_verdicts_change_no_bit(whole, tmp_path, environment):
    """Whole and torn appends by turns: each start gets one append further, or tears it."""
    run_dir, deaths = tmp_path / "killed", 0
    for fault in ("after_write:1", "torn_write:1") * 5:
        done = train(run_dir, environment, fault=fault)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        deaths += 1
    assert train(run_dir, environment).returncode == 0
    assert deaths >= 6
    assert rows(run_dir) == rows(whole)
    assert adapter(run_dir) == adapter(whole)
    numbers = ("loss", "grad_norm", "kl", "policy_gradient")
    for ours, theirs in zip(
        {line["step"]: line for line in metrics(run_dir, "train")}.values(),
        metrics(whole, "train"),
        strict=True,
    ):
        assert {k: ours.get(k) for k in numbers} == {k: theirs.get(k) for k in numbers}


def test_a_rollout_is_never_drawn_again(whole, environment):
    """Without checkpoints the steps are trained anew, on the rows that are there."""
    again = whole.with_name("again")
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints")
    (again / "manifest.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in (again / "rollouts").rglob("*.jsonl")}
    assert train(again, environment).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in (again / "rollouts").rglob("*.jsonl")} == before
    ours, theirs = metrics(again, "train"), metrics(whole, "train")
    assert [line["loss"] for line in ours[-2:]] == [line["loss"] for line in theirs[-2:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapter": "0" * 16}, "was drawn with the adapter 0000000000000000"),
        ({"prompt": "another text"}, "prompts were edited, added or removed since the run began"),
    ],
)
def test_rollouts_of_another_policy_or_prompt_are_refused(whole, environment, change, words):
    """Rows of step 2 that step 1's weights did not lead to, or that answer another prompt."""
    other = whole.with_name(f"other-{next(iter(change))}")
    shutil.copytree(whole, other)
    shutil.rmtree(other / "checkpoints")
    (other / "manifest.json").unlink()
    file = next((other / "rollouts/step-000001/samples").glob("*.jsonl"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line | change) + "\n" for line in lines))
    done = train(other, environment)
    assert done.returncode == 3 and words in done.stderr


def test_sampler_and_trainer_are_one_model(whole):
    """On every token of every step, in float32."""
    lines = metrics(whole, "train")
    assert len(lines) == 2 and all(line["log_p_gap_max"] <= 1e-4 for line in lines)


def test_a_gap_above_the_recipes_bound_stops_the_run(tmp_path, environment):
    done = train(tmp_path / "gap", environment, "on_policy.max_log_p_gap=1e-12")
    assert done.returncode == 3
    assert "above on_policy.max_log_p_gap 1e-12" in done.stderr


def test_a_stage_that_the_method_has_not_is_refused(tmp_path, environment):
    command = [sys.executable, "-m", "thinksafe_jax", "sample", str(tmp_path / "none")]
    command += ["--config", str(REPOSITORY / "configs/recipes/mini-grpo.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "grpo has no stage sample" in done.stderr


HORIZON = [
    "on_policy.samples=1",
    "on_policy.horizon.lengths=[8,24]",
    "on_policy.horizon.every=1",
    "on_policy.horizon.prompts=6",
    "on_policy.horizon.unsafe=1",
    "on_policy.horizon.rescued=0.01",
    "on_policy.horizon.answer_tokens=64",
    "on_policy.horizon.rescue_tokens=40",
    "engine.max_length=192",
]


def test_rollouts_grow_as_far_as_the_teacher_rescues_and_a_resumed_run_ends_alike(
    tmp_path, environment
):
    """The second start has the rows of a run that died in the middle of its measurement."""
    run_dir, recipe = tmp_path / "grown", "mini-self-distillation"
    done = train(run_dir, environment, *HORIZON, recipe=recipe)
    assert done.returncode == 0, done.stderr
    whole, trained = rows(run_dir), metrics(run_dir, "train")
    rates = [json.loads(line) for line in lines_below(run_dir / "rollouts/horizon")]
    assert [(rate["step"], rate["tokens"]) for rate in rates] == [(1, 8), (1, 24)]
    high = [rate["tokens"] for rate in rates if (rate["rescued"] or 0) >= 0.01]
    lengths = {line["step"]: line["horizon"] for line in metrics(run_dir, "rollout")}
    assert lengths == {1: 8, 2: max([8, *high])}
    drawn = [json.loads(line) for line in lines_below(run_dir / "rollouts/step-000001/samples")]
    assert {row["horizon"] for row in drawn} == {lengths[2]}
    assert max(row["tokens"] for row in drawn) <= lengths[2]

    for lost in ("checkpoints", "rollouts/step-000001", "rollouts/horizon"):
        shutil.rmtree(run_dir / lost)
    for lost in (run_dir / "rollouts").glob("rescue-*-8/verdicts"):
        shutil.rmtree(lost)
    (run_dir / "manifest.json").unlink()
    assert train(run_dir, environment, *HORIZON, recipe=recipe).returncode == 0
    assert rows(run_dir) == whole
    assert metrics(run_dir, "train")[-1]["loss"] == trained[-1]["loss"]


def lines_below(folder: Path) -> list[str]:
    """The rows in the files of a folder, in the order written."""
    texts = (file.read_text() for file in sorted(folder.rglob("*.jsonl")))
    return [line for text in texts for line in text.split("\n") if line]
