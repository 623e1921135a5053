"""The plan of an on-policy recipe: its rollouts, and what lies on a device at once."""

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.config import load_recipe
from thinksafe_jax.planning.loop_plan import as_dataset, plan_loop, rollouts_of
from thinksafe_jax.planning.stage_plans import Assumed, PlanRequest, StagePlan
from thinksafe_jax.sharding import load_mesh

GRPO = REPOSITORY / "configs/recipes/qwen3-0.6b-grpo.yaml"
OPD = GRPO.with_name("qwen3-0.6b-opd.yaml")
GB = 10**9


def test_rollouts_are_those_of_the_steps_or_of_the_epochs():
    recipe = load_recipe(GRPO)
    assert rollouts_of(recipe, 40_000) == 320_000  # 8 of each prompt, one epoch
    short = load_recipe(GRPO, ["on_policy.steps=10"])
    assert rollouts_of(short, 40_000) == 640


def test_each_rollout_is_trained_on_once():
    recipe = as_dataset(load_recipe(GRPO, ["training.epochs=3"]))
    assert recipe.training.epochs == 1
    assert recipe.synthesis.sampling == recipe.on_policy.sampling


@pytest.mark.parametrize(("pool", "left"), [(10 * GB, 10 * GB), (40 * GB, 26 * GB)])
def test_the_pool_has_what_guard_and_trainer_leave(pool, left):
    """On chips of 32 GB, beside 1 GB of weights, 3 GB of guard and 2 GB of training."""
    mesh = load_mesh("v6e-8")
    request = PlanRequest(as_dataset(load_recipe(GRPO)), mesh, 320_000, Assumed())
    parts = [
        StagePlan("sample", "student", bytes={"weights": GB, "kv pool": pool}, hours=5.0),
        StagePlan("guard", "guard", bytes={"weights": 3 * GB}, hours=2.0),
        StagePlan("train", "student", bytes={"weights": 2 * GB}, hours=1.0),
    ]
    plan = plan_loop(request, parts)
    assert plan.bytes["kv pool"] == left and plan.hours == 8.0
    assert plan.fits(mesh) and plan.problems == []
    assert any(fact.startswith("5,000 steps of 64 rollouts") for fact in plan.facts)


def test_a_pool_below_one_row_is_said_with_both_numbers():
    mesh = load_mesh("v6e-8")
    request = PlanRequest(as_dataset(load_recipe(GRPO)), mesh, 640, Assumed())
    parts = [
        StagePlan("sample", "student", bytes={"weights": GB, "kv pool": 30 * GB}),
        StagePlan("train", "student", bytes={"weights": mesh.topology.hbm_bytes}),
    ]
    plan = plan_loop(request, parts)
    assert not plan.fits(mesh)
    assert "would hold 0 tokens, one longest row has 18,432" in plan.problems[0]


@pytest.mark.parametrize(
    ("memory", "held", "said"),
    [
        ("device", "teacher Qwen3-8B", None),
        ("host", "LM head of the teacher Qwen3-8B", "2.0 GB of"),
    ],
)
def test_a_teacher_in_the_hosts_memory_leaves_its_place_to_the_pool(memory, held, said):
    """Qwen3-8B in bfloat16 is 16.4 GB, on the eight chips of v6e-8 a part of it on each."""
    mesh = load_mesh("v6e-8")
    recipe = load_recipe(OPD, [f"on_policy.teacher_memory={memory}"])
    request = PlanRequest(as_dataset(recipe), mesh, 640, Assumed())
    parts = [
        StagePlan("sample", "student", bytes={"weights": GB, "kv pool": 40 * GB}),
        StagePlan("train", "student", bytes={"weights": 2 * GB}),
    ]
    plan = plan_loop(request, parts)
    [(name, size)] = [(k, v) for k, v in plan.bytes.items() if "teacher" in k]
    assert name == held
    assert plan.bytes["kv pool"] == mesh.topology.hbm_bytes - 3 * GB - size
    assert [f for f in plan.facts if "of the teacher go" in f] == (
        [f"each step {said} the teacher go from the host to each device"] if said else []
    )
    assert plan.problems == []


def test_a_teacher_that_cannot_even_visit_is_said_with_the_numbers():
    mesh = load_mesh("v6e-8")
    recipe = load_recipe(OPD, ["on_policy.teacher_memory=host"])
    request = PlanRequest(as_dataset(recipe), mesh, 640, Assumed())
    parts = [
        StagePlan("sample", "student", bytes={"weights": GB, "kv pool": 40 * GB}),
        StagePlan("train", "student", bytes={"weights": mesh.topology.hbm_bytes - GB}),
    ]
    assert any(
        "even without a KV pool" in problem for problem in plan_loop(request, parts).problems
    )


def test_where_a_server_draws_nothing_here_is_held_for_the_sampler():
    """Its hours are not counted either, and it is said."""
    mesh = load_mesh("v6e-8")
    served = ["url=http://h:1/v1", "adapter_folder=/a"]
    recipe = load_recipe(
        GRPO, ["training.ratio_cap=2", *(f"on_policy.server.{key}" for key in served)]
    )
    request = PlanRequest(as_dataset(recipe), mesh, 640, Assumed())
    parts = [
        StagePlan("sample", "student", bytes={"weights": GB, "kv pool": 30 * GB}, hours=5.0),
        StagePlan("train", "student", bytes={"weights": 2 * GB}, hours=1.0),
    ]
    plan = plan_loop(request, parts)
    assert plan.bytes == {"train student": 2 * GB} and plan.hours == 1.0
    assert plan.problems == [] and "not planned" in plan.facts[0]


def test_what_lies_on_a_device_is_counted_once_and_programs_take_turns():
    """A guard's plan has the student beside it; temporaries are those of one program at a time."""
    mesh = load_mesh("v6e-8")
    request = PlanRequest(as_dataset(load_recipe(GRPO)), mesh, 640, Assumed())
    training = {"weights": 2 * GB, "gradients": GB, "loss": GB, "activations": 4 * GB}
    sampling = {"weights": GB, "kv pool": 40 * GB, "activations": 3 * GB}
    guard = {"weights": 3 * GB, "student": GB, "other guards": 3 * GB, "activations": 2 * GB}
    parts = [
        StagePlan("sample", "student", bytes=sampling),
        *[StagePlan("guard", "guard", bytes=guard)] * 2,  # a majority of one model
        StagePlan("train", "student", bytes=training),
    ]
    held = {"sample student": GB, "guard guard": 6 * GB, "train student": 2 * GB}
    plan = plan_loop(request, parts)
    assert plan.bytes == held | {"temporaries": 6 * GB, "kv pool": (32 - 15) * GB}


def test_a_teacher_that_reads_every_rollout_takes_its_time():
    """Twice its weights but the embedding, and the causal half of attention, for each token."""
    mesh, rows, tokens = load_mesh("v6e-8"), 640, 300 + 4096
    request = PlanRequest(as_dataset(load_recipe(OPD)), mesh, rows, Assumed())
    parts = [StagePlan("sample", "student", hours=5.0), StagePlan("train", "student", hours=1.0)]
    plan = plan_loop(request, parts)
    weights, attention = 8_190_735_360 - 151_936 * 4096, 2 * 36 * 32 * 128 * tokens
    flops = rows * tokens * (2 * weights + attention)
    seconds = flops / (mesh.topology.chips * mesh.topology.peak_flops)
    assert 3600 * (plan.hours - 6.0) == pytest.approx(seconds, rel=1e-3)
    assert any("are the teacher's" in fact for fact in plan.facts)
