"""What a start says it will take: counted by hand here, and beside the plan in test_recipe_plan."""

from dataclasses import replace

import pytest

from thinksafe_jax.config import (
    EngineConfig,
    EvaluationConfig,
    GuardConfig,
    ModelSource,
    OnPolicyConfig,
    Recipe,
    RolloutServerConfig,
    SamplingConfig,
    SynthesisConfig,
    TrainingConfig,
)
from thinksafe_jax.planning import expected_work, find_model, workload_flops
from thinksafe_jax.planning.workload import Workload
from thinksafe_jax.sharding import device_topology, load_mesh

CHIP = device_topology("TPU v5e")
RECIPE = Recipe(
    student=ModelSource("mini:student", dtype="float32"),
    guard=GuardConfig(model="mini:guard"),
    synthesis=SynthesisConfig(attempts=2, sampling=SamplingConfig(max_new_tokens=64)),
    training=TrainingConfig(epochs=3, max_length=256),
    evaluation=EvaluationConfig(
        sampling=SamplingConfig(max_new_tokens=32),
        reasoning_sampling=SamplingConfig(max_new_tokens=100),
    ),
)
QUESTIONS = {"harmful": 10, "reasoning": 5}


def config_of(name):
    return find_model(name)[1]


def expect(recipe, machine=None):
    return expected_work(recipe, 8, QUESTIONS, 20, config_of, machine)


def test_every_attempt_both_evaluations_and_all_epochs_are_counted():
    work = expect(RECIPE)
    assert (work.responses, work.answers) == (2 * 8, 2 * 15)
    assert work.tokens == 2 * 8 * 64 + 2 * (10 * 32 + 5 * 100)
    sampled = Workload(16, 16 * 20, 16 * 64, 16, 3 * 8 * (20 + 64), 3 * 8)
    asked = Workload(30, 30 * 20, 2 * (320 + 500), 20, 0, 0)
    flops = (sum(workload_flops(RECIPE, part).values()) for part in (sampled, asked))
    assert work.flops == pytest.approx(sum(flops))
    assert work.hours is None
    assert work.text("the run", "").endswith(f"about 2,664 tokens, {work.flops:.1e} FLOPs")


def test_prompts_held_out_of_training_are_asked_before_and_after_it():
    heldout = expect(replace(RECIPE, training=replace(RECIPE.training, heldout_rows=3)))
    whole = expect(RECIPE)
    assert (heldout.answers, heldout.heldout) == (whole.answers, 2 * 3)
    assert heldout.tokens == whole.tokens + 2 * 3 * 32
    assert "30 answers of the evaluations and 6 to held-out prompts, about" in heldout.text("", "")
    sampled = Workload(16, 16 * 20, 16 * 64, 16, 3 * 5 * (20 + 64), 3 * 5)
    asked = Workload(36, 36 * 20, 2 * (320 + 500 + 3 * 32), 20, 0, 0)
    flops = (sum(workload_flops(RECIPE, part).values()) for part in (sampled, asked))
    assert heldout.flops == pytest.approx(sum(flops))


def test_held_out_prompts_are_not_asked_where_several_hosts_work_on_the_run():
    recipe = replace(RECIPE, training=replace(RECIPE.training, heldout_rows=3))
    alone, several = expect(recipe, load_mesh("v5e-8")), expect(recipe, load_mesh("v5e-16"))
    assert (load_mesh("v5e-8").topology.hosts, load_mesh("v5e-16").topology.hosts) == (1, 4)
    assert (alone.heldout, several.heldout) == (2 * 3, 0)
    assert several.tokens == expect(RECIPE).tokens


def test_hours_are_said_where_the_machine_is_known_and_more_chips_take_fewer():
    alone, mesh = expect(RECIPE, CHIP), expect(RECIPE, load_mesh("v5e-8"))
    assert alone.hours is not None and mesh.hours is not None
    assert alone.hours > mesh.hours > 0
    assert "about 2.5 h on v5e-8" in replace(mesh, hours=2.5).text("the run", "v5e-8")
    assert "about 0.1 min on one chip" in alone.text("the trial", "one chip")


def test_a_loop_draws_its_rollouts_and_fixed_responses_are_not_drawn():
    on_policy = OnPolicyConfig(
        method="grpo", samples=4, sampling=SamplingConfig(1.0, 1.0, 0, 0, 50)
    )
    loop = expect(replace(RECIPE, on_policy=on_policy))
    assert loop.responses == 3 * 8 * 4  # epochs, prompts, rollouts of each
    assert loop.tokens == 96 * 50 + expect(RECIPE).tokens - 16 * 64
    fixed = replace(RECIPE, synthesis=replace(RECIPE.synthesis, method="external"))
    assert expect(fixed).responses == 0
    assert expect(fixed).tokens == expect(RECIPE).tokens - 16 * 64


def test_keys_and_values_in_int8_take_fewer_hours_to_read():
    """A cache of long rows is most of what a step reads; the FLOPs are the same."""
    sampling = SamplingConfig(max_new_tokens=600)
    long = replace(RECIPE, synthesis=replace(RECIPE.synthesis, sampling=sampling))
    rounded = replace(long, engine=EngineConfig(kv_dtype="int8"))
    model, int8 = expect(long, CHIP), expect(rounded, CHIP)
    assert int8.flops == model.flops and int8.hours < model.hours


def test_what_a_server_does_takes_no_hours_here():
    """Its FLOPs are the run's all the same."""
    served = replace(RECIPE, guard=replace(RECIPE.guard, url="http://h:1/v1"))
    here, there = expect(RECIPE, CHIP), expect(served, CHIP)
    assert there.flops == here.flops
    rows = [Workload(16, 16 * 20, 16 * 64, 16, 0, 0), Workload(30, 30 * 20, 1640, 20, 0, 0)]
    judging = sum(workload_flops(RECIPE, work)["guard"] for work in rows)
    assert 3600 * (here.hours - there.hours) == pytest.approx(judging / CHIP.peak_flops)
    server = RolloutServerConfig(url="http://h:1/v1", adapter_folder="/adapters")
    sampling = SamplingConfig(1.0, 1.0, 0, 0, 50)
    loop = replace(RECIPE, on_policy=OnPolicyConfig(method="grpo", sampling=sampling))
    drawn = replace(loop, on_policy=replace(loop.on_policy, server=server))
    alone, beside = expect(loop, CHIP), expect(drawn, CHIP)
    assert beside.flops == alone.flops and beside.hours < alone.hours
