"""Rewards: what each reads, and how one's own is refused where it gives no number."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.on_policy import kit
from thinksafe_jax.config import RewardTerm
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.on_policy.rewards import (
    REWARDS,
    check_classes,
    is_for,
    reward_function,
    rewards_of,
)


@pytest.mark.parametrize(
    ("verdict", "reward"),
    [
        (kit.verdict(0.25), 0.75),
        (kit.verdict(None, "safe"), 1.0),  # a guard without probabilities
        (kit.verdict(None, "unsafe"), 0.0),
        (kit.verdict(None, "unparsed"), None),
    ],
)
def test_what_a_guard_gives(verdict, reward):
    assert REWARDS["guard-safe"]([kit.rollout(of_guard=verdict)]) == [reward]


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        (kit.CLOSED, 1.0),
        ("<think>\na", 0.0),
        ("a", 0.0),
        ("a</think>b", 0.0),
        ("<think>a</think><think>b</think>c", 0.0),
        ("<think><think>a</think>b", 0.0),
        ("<think>a</think>b</think>c", 0.0),
        ("</think><think>a", 0.0),
    ],
)
def test_the_form_of_an_answer(response, reward):
    assert REWARDS["format"]([kit.rollout(response=response)]) == [reward]


def test_a_refusal_is_the_guards_word_or_a_phrase():
    told = kit.verdict(0.0)
    refusing = kit.rollout(
        response=kit.CLOSED, of_guard=type(told)(**{**vars(told), "refusal": True})
    )
    rollouts = [refusing, kit.rollout(response=kit.REFUSED), kit.rollout()]
    assert REWARDS["not-refused"](rollouts) == [0.0, 0.0, 1.0]


def rollouts_by_class():
    """A harmful prompt, a harmless one of the same file, and an ambiguous one of another."""
    strata = {"p0": "chain/vanilla_harmful", "p1": "chain/vanilla_benign", "p2": "or-bench/"}
    made = []
    for id, stratum in strata.items():
        label = "harmful" if id == "p0" else "benign"
        rollout = kit.rollout(id, label=label, response=kit.REFUSED, of_guard=kit.verdict(0.25))
        made.append(replace(rollout, prompt=replace(rollout.prompt, stratum=stratum)))
    return made


def test_rewards_by_class_of_prompt():
    """TARS: each class has rewards of its own; a class is a file, or a value of its labels."""
    terms = [
        RewardTerm("guard-safe", label="harmful"),
        RewardTerm("not-refused", stratum="vanilla_benign"),
        RewardTerm("not-refused", stratum="or-bench"),
        RewardTerm("guard-safe", weight=0.5, stratum="or-bench"),
        RewardTerm("format"),
    ]
    assert rewards_of(terms, rollouts_by_class()) == [
        [0.75, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.375],
        [1.0, 1.0, 1.0],
    ]
    answered = [replace(r, response=kit.CLOSED) for r in rollouts_by_class()]
    assert rewards_of(terms, answered)[1:3] == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_a_label_may_hold_a_slash():
    """A value of the label column, as `hate/threatening`, is a class whole; its end is none."""
    prompt = replace(rollouts_by_class()[0].prompt, stratum="chain.2/hate/threatening")
    wanted = ["chain.2", "hate/threatening", "chain.2/hate/threatening"]
    others = ["threatening", "chain.2/hate", "hate"]
    assert [s for s in [*wanted, *others] if is_for(RewardTerm(stratum=s), prompt)] == wanted


def test_a_reward_for_prompts_that_are_not_there_is_refused():
    prompts = [rollout.prompt for rollout in rollouts_by_class()]
    check_classes([RewardTerm("format", stratum="chain"), RewardTerm("format")], prompts)
    with pytest.raises(InputError, match="'or-bensh', and there are none; did you mean or-bench"):
        check_classes([RewardTerm("format", stratum="or-bensh")], prompts)
    with pytest.raises(InputError, match="'or-bench' and the label harmful, and there are none"):
        check_classes([RewardTerm("format", label="harmful", stratum="or-bench")], prompts)


@pytest.fixture
def own(monkeypatch):
    """A user's module with rewards that are wrong in every way."""

    def fail(rollouts):
        raise ValueError("the reward server\nhas no disk")

    module = SimpleNamespace(
        length=lambda rollouts: [len(r.token_ids) for r in rollouts],
        nan=lambda rollouts: [math.nan for _ in rollouts],
        text=lambda rollouts: ["good" for _ in rollouts],
        short=lambda rollouts: [1.0],
        none=lambda rollouts: [None for _ in rollouts],
        fail=fail,
        number=3,
    )
    monkeypatch.setitem(sys.modules, "my_rewards", module)


def test_a_reward_of_ones_own(own):
    rollouts = [kit.rollout(tokens=3), kit.rollout(sample=1, tokens=5)]
    terms = [RewardTerm("my_rewards:length", weight=2.0), RewardTerm("my_rewards:none")]
    assert rewards_of(terms, rollouts) == [[6.0, 10.0], [None, None]]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", "nan; expected a finite number"),
        ("text", "'good'; expected a finite number"),
        ("short", "gave 1 values for 2 rollouts"),
        ("fail", "ValueError: the reward server"),
    ],
)
def test_what_is_no_reward_stops_the_run_and_is_never_zero(own, name, words):
    with pytest.raises(InputError, match=words):
        rewards_of([RewardTerm(f"my_rewards:{name}")], [kit.rollout(), kit.rollout(sample=1)])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("guard-save", "did you mean guard-safe"),
        ("no_such_module_of_mine:reward", "cannot be imported: No module named"),
        ("my_rewards:missing", "cannot be imported"),
        ("my_rewards:number", "is no function"),
    ],
)
def test_a_name_without_a_reward_is_refused(own, name, words):
    with pytest.raises(ConfigError, match=words):
        reward_function(name)
