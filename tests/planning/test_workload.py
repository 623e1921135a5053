"""FLOPs of a run that is done: of the models that it used, and of no other."""

from dataclasses import replace

import pytest

from thinksafe_jax.config import GuardConfig, GuardModel, ModelSource, OnPolicyConfig, Recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.planning import Workload, guards_of, workload_flops
from thinksafe_jax.planning.find_model import find_model

WORK = Workload(
    rows=4, prompt_tokens=40, sampled_tokens=80, judged=4, trained_tokens=120, trained_rows=4
)
GUARD = GuardConfig(model="mini:guard")


@pytest.fixture
def recipe():
    return replace(Recipe(), student=replace(Recipe().student, model="mini:student"), guard=GUARD)


@pytest.fixture
def looked_up(monkeypatch):
    """Names of the models that were looked up."""
    names = []

    def recorded(name):
        names.append(name)
        if not name.startswith("mini:"):
            raise ConfigError(f"no model {name}")
        return find_model(name)

    monkeypatch.setattr("thinksafe_jax.planning.workload.find_model", recorded)
    return names


def test_every_member_of_a_majority_reads_every_answer(recipe):
    member = GuardModel(model="mini:guard")
    three = replace(recipe, guard=GuardConfig(kind="majority", members=[member] * 3))
    assert guards_of(three.guard) == [member] * 3
    of_one, of_three = workload_flops(recipe, WORK), workload_flops(three, WORK)
    assert of_one["guard"] > 0
    assert of_three["guard"] == pytest.approx(3 * of_one["guard"])


def test_a_matcher_costs_nothing_whatever_model_stands_beside_it(recipe, looked_up):
    phrases = GuardModel(kind="refusal-match", model="nobody/none")
    with_guard = GuardConfig(kind="majority", members=[phrases, GuardModel(model="mini:guard")])
    alone = workload_flops(replace(recipe, guard=GuardConfig(**vars(phrases))), WORK)
    beside = workload_flops(replace(recipe, guard=with_guard), WORK)
    assert alone["guard"] == 0
    assert beside["guard"] == workload_flops(recipe, WORK)["guard"]
    assert "nobody/none" not in looked_up


@pytest.mark.parametrize(
    ("changes", "method"), [({"judged": 0}, "thinksafe"), ({}, "direct-refusal")]
)
def test_a_guard_that_judged_nothing_is_not_looked_up(recipe, looked_up, changes, method):
    gone = replace(
        recipe,
        guard=GuardConfig(model="nobody/none"),
        synthesis=replace(recipe.synthesis, method=method),
    )
    flops = workload_flops(gone, replace(WORK, **changes))
    assert flops["guard"] == 0 < flops["train"]
    assert set(looked_up) == {"mini:student"}


def forward_flops(tokens: int) -> float:
    """A pass of mini:student over one row with its head, from the numbers of its config.json."""
    hidden, mlp, heads, kv_heads, head_dim, layers, words = 128, 416, 4, 2, 32, 4, 1536
    weights = hidden * head_dim * (2 * heads + 2 * kv_heads) + 3 * hidden * mlp
    weights += 2 * hidden + 2 * head_dim  # norms count as one product, too
    causal = 2 * heads * head_dim * tokens  # scores and values, of half of the keys on average
    return tokens * (2 * (layers * weights + hidden * words) + layers * causal)


KL = {"training": replace(Recipe().training, objective="ce+kl")}
GRPO = {"on_policy": OnPolicyConfig(method="grpo")}


@pytest.mark.parametrize("changes", [KL, GRPO], ids=["ce+kl", "grpo"])
def test_a_divergence_from_the_student_itself_costs_a_pass_of_it_over_the_rows(recipe, changes):
    plain = workload_flops(recipe, WORK)["train"]
    with_base = workload_flops(replace(recipe, **changes), WORK)["train"]
    assert with_base - plain == pytest.approx(4 * forward_flops(120 // 4))


@pytest.mark.parametrize("method", ["opd", "self-distillation"])
def test_a_teachers_pass_counts_its_head(recipe, method):
    """The divergence needs the teacher's whole distribution at every token."""
    teacher = ModelSource(model="mini:student" if method == "opd" else "")
    taught = replace(recipe, on_policy=OnPolicyConfig(method=method, teacher=teacher))
    flops, plain = workload_flops(taught, WORK), workload_flops(recipe, WORK)
    assert flops["guard"] - plain["guard"] == pytest.approx(4 * forward_flops((40 + 80) // 4))
    assert flops["train"] == plain["train"]
