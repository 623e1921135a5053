"""The rule of a study: what it can say, which setting it takes, and that ties have one answer."""

import pytest

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.intervals import Estimate
from thinksafe_jax.studies.choosing_rule import choose, parse_rule

RULE = (
    "minimise harm subject to reasoning >= initial - 2 points and over_refusal <= initial + 5 "
    "points"
)
INITIAL = {"harm": 0.85, "reasoning": 0.90, "over_refusal": 0.02}


def values(harm, reasoning=0.90, over_refusal=0.02):
    return {"harm": harm, "reasoning": reasoning, "over_refusal": over_refusal}


def test_the_best_setting_that_keeps_every_condition_is_chosen():
    settings = [
        ("careless", values(0.00, reasoning=0.80)),
        ("careful", values(0.10, reasoning=0.88)),
        ("timid", values(0.01, over_refusal=0.08)),
        ("weak", values(0.40)),
    ]
    choice = choose(parse_rule(RULE), settings, INITIAL)
    assert choice.chosen == "careful"
    assert choice.broken == {
        "careless": ("reasoning >= initial - 2 points",),
        "careful": (),
        "timid": ("over_refusal <= initial + 5 points",),
        "weak": (),
    }


def test_where_none_keeps_them_the_fewest_points_over_are_taken():
    settings = [("far", values(0.0, reasoning=0.5)), ("near", values(0.3, reasoning=0.87))]
    assert choose(parse_rule(RULE), settings, INITIAL).chosen == "near"


def test_of_equals_the_first_is_taken_and_rounding_decides_nothing():
    third = 1 / 3
    settings = [("first", values(third)), ("second", values(1 - 2 * third))]
    assert choose(parse_rule("minimise harm"), settings, {}).chosen == "first"
    exactly = values(0.0, reasoning=0.90 - 0.02)  # 0.88 in floats is a little below
    assert choose(parse_rule(RULE), [("edge", exactly)], INITIAL).broken == {"edge": ()}


def test_a_setting_that_was_not_measured_is_never_chosen():
    settings = [("failed", None), ("mute", {"reasoning": 0.9}), ("measured", values(0.9))]
    choice = choose(parse_rule(RULE), settings, INITIAL)
    assert choice.chosen == "measured" and list(choice.broken) == ["measured"]
    assert choose(parse_rule(RULE), settings[:2], INITIAL).chosen is None


def test_a_bound_may_be_a_number_and_more_may_be_better():
    rule = parse_rule("maximise reasoning subject to unparsed <= 5 points")
    assert rule.measures == ["reasoning", "unparsed"]
    settings = [
        ("garbled", {"reasoning": 0.9, "unparsed": 0.2}),
        ("plain", {"reasoning": 0.8, "unparsed": 0.05}),
    ]
    assert choose(rule, settings, {}).chosen == "plain"


@pytest.mark.parametrize(
    ("condition", "low", "high", "sure"),
    [
        ("reasoning >= initial - 2 points", -0.09, -0.03, True),  # differences from the student
        ("reasoning >= initial - 2 points", -0.09, -0.01, False),
        ("over_refusal <= initial + 5 points", 0.06, 0.2, True),
        ("over_refusal <= initial + 5 points", 0.04, 0.2, False),
        ("unparsed <= 5 points", 0.06, 0.2, True),
        ("unparsed <= 5 points", None, None, False),
    ],
)
def test_a_condition_is_surely_broken_where_the_whole_interval_is_beyond_its_bound(
    condition, low, high, sure
):
    rule = parse_rule(f"minimise harm subject to {condition}")
    estimate = Estimate(low and (low + high) / 2, low, high, None, (), 100)
    assert rule.conditions[0].surely_broken(estimate) is sure


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "expected minimise or maximise"),
        ("least harm", "least harm"),
        ("minimise harm subject to reasoning > initial", "reasoning > initial"),
        ("minimise harm subject to reasoning >= before - 2 points", "before - 2 points"),
        ("minimise harm subject to reasoning >= initial - 2", "initial - 2"),
        ("minimise harm subject to a <= 1 points or b <= 1 points", "or b <= 1 points"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_part_that_cannot_be_read(text, part):
    with pytest.raises(ConfigError, match="expected minimise") as caught:
        parse_rule(text)
    assert part in str(caught.value)
