"""GRPO from rewards to weights: the algebra of a group, and what has no reward is in no sum."""

import numpy as np
import pytest

from tests.on_policy import kit
from thinksafe_jax.config import RewardTerm
from thinksafe_jax.on_policy.advantages import ADVANTAGES
from thinksafe_jax.on_policy.methods.grpo import Grpo

GUARD = [RewardTerm("guard-safe")]


def teach(rollouts, **settings):
    settings = {"rewards": GUARD, "loss": "dapo", **settings}
    return Grpo(kit.recipe(**settings), None).teach(rollouts, [])


def group(chances, prompt="p0", **more):
    """Rollouts of one prompt; the guard gives each the chance of being unsafe, None is unread."""
    verdicts = [kit.verdict(p, "unparsed" if p is None else None) for p in chances]
    return [kit.rollout(prompt, n, of_guard=verdict, **more) for n, verdict in enumerate(verdicts)]


def advantages(taught):
    """The weight of `pg` at the first token of each rollout."""
    return np.array([streams["pg"].weights[0] for streams in taught.streams])


def counts(taught, stream="pg"):
    return [streams[stream].count for streams in taught.streams]


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_of_a_group_add_up_to_zero(name):
    rewards = np.random.default_rng(0).uniform(size=8)
    assert abs(ADVANTAGES[name](rewards, 1e-3).sum()) < 1e-9


@pytest.mark.parametrize("name", [name for name in ADVANTAGES if name != "max-rl"])
def test_a_constant_added_to_all_rewards_changes_nothing(name):
    rewards = np.random.default_rng(0).uniform(size=8)
    shifted = ADVANTAGES[name](rewards + 5.0, 1e-3)
    np.testing.assert_allclose(shifted, ADVANTAGES[name](rewards, 1e-3), atol=1e-9)


def test_advantages_by_hand():
    rewards = np.array([0.0, 1.0, 1.0, 2.0])
    deviation = np.sqrt(2 / 3)  # unbiased
    wanted = {
        "grpo": np.array([-1, 0, 0, 1]) / (deviation + 1e-4),
        "dr-grpo": [-1, 0, 0, 1],
        "rloo": [-4 / 3, 0, 0, 4 / 3],
        "max-rl": [-1, 0, 0, 1],
    }
    assert wanted.keys() == ADVANTAGES.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(ADVANTAGES[name](rewards, 0.0), values, atol=1e-12)


def test_a_small_spread_is_not_blown_up():
    """P(safe) of four answers that the guard finds alike: noise, not a signal of size one."""
    noise = np.array([0.9001, 0.9, 0.9002, 0.9])
    assert np.abs(ADVANTAGES["grpo"](noise, 0.1)).max() < 0.01
    assert np.abs(ADVANTAGES["grpo"](noise, 0.0)).max() > 0.5


def test_max_rl_without_a_good_answer_asks_for_nothing():
    assert (ADVANTAGES["max-rl"](np.zeros(4), 0.0) == 0).all()


def test_losses_weigh_tokens_as_their_papers_say():
    """Two rollouts of 2 and 4 tokens, of at most ten."""
    rollouts = [
        kit.rollout("p0", 0, tokens=2, of_guard=kit.verdict(0.0)),
        kit.rollout("p0", 1, tokens=4, of_guard=kit.verdict(1.0)),
    ]
    for loss, weights, of_step in (
        ("grpo", [1 / 2, 1 / 4], 2),  # the mean over rollouts of the mean over tokens
        ("dapo", [1, 1], 6),  # the mean over tokens
        ("dr-grpo", [1, 1], 20),  # the sum over tokens by what there could have been
    ):
        taught = teach(rollouts, loss=loss, advantage="dr-grpo")
        np.testing.assert_allclose(advantages(taught), [0.5 * weights[0], -0.5 * weights[1]])
        assert sum(counts(taught)) == sum(counts(taught, "kl")) == of_step
        near = [streams["kl"].weights[0] for streams in taught.streams]
        np.testing.assert_allclose(near, weights)


def test_an_answer_that_nobody_could_judge_is_left_out_and_is_no_zero():
    """Its group's statistics, both streams and both denominators are those of the others."""
    judged = [0.1, 0.7, 0.4]
    with_hole = teach(group([*judged[:2], None, judged[2]]))
    without = teach(group(judged))
    np.testing.assert_allclose(advantages(with_hole)[[0, 1, 3]], advantages(without))
    assert advantages(with_hole)[2] == 0 and counts(with_hole) == [3, 3, 0, 3]
    assert counts(with_hole, "kl") == [3, 3, 0, 3]
    assert with_hole.metrics["unrewarded"] == 0.25
    assert with_hole.metrics["reward"] == pytest.approx(without.metrics["reward"])


def test_a_group_with_one_judged_answer_has_nothing_to_compare():
    taught = teach(group([0.1, None, None, None]))
    assert counts(taught) == [0, 0, 0, 0] and not advantages(taught).any()


@pytest.mark.parametrize(("flat_groups", "count"), [("keep", 3.0), ("drop", 0.0)])
def test_a_group_without_spread_keeps_its_divergence_or_is_left_out(flat_groups, count):
    taught = teach([*group([0.2] * 4), *group([0.1, 0.9], "p1")], flat_groups=flat_groups)
    assert counts(taught)[:4] == counts(taught, "kl")[:4] == [count] * 4
    assert not advantages(taught)[:4].any() and advantages(taught)[4:].any()
    assert taught.metrics["flat_groups"] == 0.5


def test_a_cut_answer_is_trained_on_or_left_out():
    rollouts = [*group([0.1, 0.9]), kit.rollout("p0", 2, ended=False)]
    assert counts(teach(rollouts)) == [3, 3, 3]
    dropped = teach(rollouts, truncated="drop")
    assert counts(dropped) == [3, 3, 0]
    np.testing.assert_allclose(advantages(dropped)[:2], advantages(teach(group([0.1, 0.9]))))


def test_rewards_are_weighted_and_added_up_or_normalised_apart():
    """Added up, the reward with the larger spread hides the other."""
    rewards = [RewardTerm("guard-safe", weight=10.0), RewardTerm("format")]
    rollouts = group([0.0, 0.0, 1.0, 1.0])
    for n in (1, 3):
        rollouts[n] = kit.rollout("p0", n, response="no tags", of_guard=rollouts[n].verdict)
    together = advantages(teach(rollouts, rewards=rewards))
    apart = advantages(teach(rollouts, rewards=rewards, rewards_apart=True))
    assert abs(together[0] - together[1]) < 0.2 < abs(apart[0] - apart[1])
    np.testing.assert_allclose(apart, [1.732, 0, 0, -1.732], atol=1e-2)


@pytest.mark.parametrize(("apart", "flat"), [(False, 1.0), (True, 0.0)])
def test_a_group_whose_sums_are_alike_is_not_flat_where_rewards_are_normalised_apart(apart, flat):
    rewards = [RewardTerm("guard-safe"), RewardTerm("format"), RewardTerm("not-refused")]
    rollouts = group([0.0, 0.0, 1.0, 1.0])  # safe, form, not refused: 110, 101, 011, 011
    rollouts[0] = kit.rollout("p0", 0, response=kit.REFUSED)
    rollouts[1] = kit.rollout("p0", 1, response="no tags")
    taught = teach(rollouts, rewards=rewards, rewards_apart=apart, flat_groups="drop")
    assert taught.metrics["flat_groups"] == flat
    assert advantages(taught).any() == apart


def test_each_reward_is_shown_apart_over_those_that_it_is_for():
    """Over-refusal is never hidden in a sum."""
    rewards = [RewardTerm("guard-safe"), RewardTerm("not-refused", label="benign")]
    harmful = [kit.rollout("p0", n, response=kit.REFUSED) for n in range(2)]
    benign = [
        kit.rollout("p1", 0, label="benign", response=kit.REFUSED),
        kit.rollout("p1", 1, label="benign"),
    ]
    taught = teach([*harmful, *benign], rewards=rewards)
    assert taught.metrics["reward not-refused benign"] == 0.5
    assert taught.metrics["reward guard-safe"] == 1.0
    # refusing the benign prompt is what its group learns not to do
    assert advantages(taught)[2] < 0 < advantages(taught)[3]
