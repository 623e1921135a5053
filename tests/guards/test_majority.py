"""A majority is more than half of all members, those that could not be read included."""

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.config import GuardConfig, GuardModel, load_recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.guards import Exchange, Verdict, load_guard
from thinksafe_jax.guards.majority import Majority


class Says:
    """A guard that says the same of everything."""

    weak, template = False, "t"

    def __init__(self, name, word, **more):
        self.name, self.word, self.more = name, word, more

    def judge(self, exchanges):
        for e in exchanges:
            yield Verdict(e.id, self.word, None, e.scope, False, self.name, **self.more)


def joined(*words, **more):
    guard = Majority([Says(str(n), word, **more) for n, word in enumerate(words)])
    (verdict,) = guard.judge([Exchange("1", "p", "r")])
    return verdict


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("safe", "safe", "unsafe"), "safe"),
        (("safe", "unsafe", "unsafe"), "unsafe"),
        (("safe", "unparsed", "unparsed"), "unparsed"),
        (("safe", "safe", "unparsed"), "safe"),
        (("safe", "unsafe"), "unparsed"),
        (("safe", "unsafe", "unparsed"), "unparsed"),
        (("unparsed", "unparsed"), "unparsed"),
    ],
)
def test_more_than_half_of_all_members(words, expected):
    verdict = joined(*words)
    assert verdict.verdict == expected
    assert list(verdict.row()["votes"].values()) == list(words)


def test_categories_of_those_who_object_and_refusals():
    verdict = joined("unsafe", "unsafe", "safe", categories=("S1",), refusal=True)
    assert (verdict.categories, verdict.refusal) == (("S1",), True)
    assert joined("safe", "safe", refusal=None).refusal is None


def test_a_majority_of_real_guards():
    mini = GuardModel(model="mini:guard", dtype="float32", max_length=512, batch_tokens=512)
    guard = load_guard(
        GuardConfig(kind="majority", members=[mini, mini, GuardModel(kind="refusal-match")])
    )
    verdicts = list(guard.judge([Exchange(str(n), "Hi", "Hello.", "benign") for n in range(3)]))
    assert [v.id for v in verdicts] == ["0", "1", "2"]
    assert all(len(v.votes) == 3 for v in verdicts)
    assert guard.weak  # it has a weak member


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("guard.kind=majority", "needs two guards"),
        ("guard.members=[{kind: wildguard, model: x}]", "only a guard of kind majority"),
        ("guard={kind: majority, members: [{kind: wildguard}, {kind: refusal-match}]}",
         r"guard\.members\[0\]\.model"),
        ("guard={kind: wildguard, url: 'http://h/v1', served_name: w}", "no chat template"),
        ("guard.authors_compat=true guard.kind=wildguard", "authors_compat"),
        ("guard.kind=wildgard", "did you mean wildguard"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(override, message):
    overrides = override.split() if override.startswith("guard.authors") else [override]
    with pytest.raises(ConfigError, match=message):
        load_recipe(REPOSITORY / "configs/recipes/mini.yaml", overrides)
