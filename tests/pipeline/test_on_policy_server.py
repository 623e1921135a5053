"""GRPO with rollouts of a server: its policy is the one in training, what was drawn is kept."""

import json

import pytest

from tests.on_policy.lora_server import LoraServer, MiniStudent, serving
from thinksafe_jax.config import (
    EngineConfig,
    EvaluationConfig,
    GuardConfig,
    ModelSource,
    OnPolicyConfig,
    PromptSource,
    Recipe,
    RewardTerm,
    RolloutServerConfig,
    SamplingConfig,
    SynthesisConfig,
    TrainingConfig,
)
from thinksafe_jax.errors import InputError, RetryLater
from thinksafe_jax.pipeline import run_pipeline

pytestmark = [pytest.mark.slow, pytest.mark.hub]

CONTEXT, STEPS, ROLLOUTS = 96, 2, 8
NAME = "mini:student"


def recipe(url, folder, **on_policy) -> Recipe:
    """Rewards of letters, and the guard that needs no model: what is tested is who draws."""
    server = RolloutServerConfig(
        url, adapter_folder=str(folder), concurrency=2, retries=1, timeout_seconds=120.0
    )
    return Recipe(
        name="served",
        student=ModelSource(NAME, dtype="float32"),
        guard=GuardConfig(kind="refusal-match", max_unparsed=1.0),
        engine=EngineConfig(slots=8, window=8, page_size=16, max_length=CONTEXT),
        synthesis=SynthesisConfig(
            prompts=[
                PromptSource(f"mini:train-{label}", limit=1) for label in ("harmful", "benign")
            ]
        ),
        training=TrainingConfig(
            learning_rate=5e-2,
            warmup_ratio=0.0,
            batch_size=ROLLOUTS,
            micro_batch_size=ROLLOUTS,
            max_length=CONTEXT,
            lora_dropout=0.0,
            kl="reverse",
            kl_weight=1.0,
            remat="none",
            ratio_cap=2.0,
        ),
        evaluation=EvaluationConfig(sampling=SamplingConfig(max_new_tokens=24)),
        on_policy=OnPolicyConfig(
            method="grpo",
            steps=STEPS,
            samples=ROLLOUTS // 2,
            sampling=SamplingConfig(1.0, 1.0, 0, max_new_tokens=24),
            loss="dapo",
            rewards=[RewardTerm("tests.pipeline.test_on_policy_server:letters")],
            server=server,
            **({"max_log_p_gap": 1e-4} | on_policy),
        ),
    )


def letters(rollouts):
    """A reward with spread in every group: the share of the letter e."""
    return [rollout.response.count("e") / len(rollout.response) for rollout in rollouts]


def lines_of(run_dir, stage):
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage]


def rollouts_of(run_dir):
    files = sorted((run_dir / "rollouts").glob("step-*/samples/*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_server_that_goes_and_comes_back_ends_in_one_run_of_one_policy(tmp_path):
    """It dies in the second step; another start, at another address, asks for the rest alone."""
    student = MiniStudent(CONTEXT)
    run_dir, folder = tmp_path / "run", tmp_path / "adapters"
    first, again = LoraServer(student.draw, NAME), LoraServer(student.draw, NAME)
    first.instead = lambda *_: (503, "going") if len(first.of("completions")) > 11 else None
    with serving(first) as url, pytest.raises(RetryLater, match="no answer after 2 tries"):
        run_pipeline(recipe(url, folder), run_dir, stages=["train"])
    kept = rollouts_of(run_dir)
    assert ROLLOUTS < len(kept) <= 11

    with serving(again) as url:
        run_pipeline(recipe(url, folder), run_dir, stages=["train"])
    rows = rollouts_of(run_dir)
    assert len(rows) == STEPS * ROLLOUTS and all(row in rows for row in kept)
    assert len(again.of("completions")) == STEPS * ROLLOUTS - len(kept)
    assert {row["served"] for row in rows} == {NAME}
    # a policy for each step; the second is that of both starts, by name
    assert len({row["adapter"] for row in rows}) == STEPS
    [reloaded] = again.of("load_lora_adapter")
    assert first.of("load_lora_adapter")[-1] == reloaded
    assert not again.adapters and not list(folder.iterdir())

    lines = {line["step"]: line for line in lines_of(run_dir, "train")}
    assert len(lines) == STEPS
    for line in lines.values():
        assert line["log_p_gap_max"] <= 1e-4
        assert line["effective_sample_share"] == pytest.approx(1.0, abs=1e-4)
    sampled = [line for line in lines_of(run_dir, "rollout") if line["sampling_seconds"]]
    assert len(sampled) == STEPS and all(0 < line["occupancy"] <= 1 for line in sampled)


def test_a_server_that_serves_a_stale_adapter_is_seen(tmp_path):
    """It says that it loads the second adapter, and goes on with the first."""
    student = MiniStudent(CONTEXT)
    student.takes_adapters = False
    with (
        serving(LoraServer(student.draw, NAME)) as url,
        pytest.raises(InputError, match=r"step 2: .*above on_policy.max_log_p_gap 0.01"),
    ):
        of = recipe(url, tmp_path / "adapters", max_log_p_gap=1e-2)
        run_pipeline(of, tmp_path / "run", stages=["train"])
