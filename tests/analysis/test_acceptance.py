"""Acceptance and the odds ratio: the closed forms, the pairing, and that the interval covers."""

import math
from random import Random

import pytest

from thinksafe_jax.analysis.acceptance import acceptance, expected_acceptance, odds_ratio


def outcomes(flags):
    return {str(n): [bool(flag)] for n, flag in enumerate(flags)}


def test_acceptance_is_a_share_with_wilsons_interval():
    rate = acceptance({"a": [True, False], "b": [True, True]})
    assert (rate.value, rate.n) == (0.75, 4)
    assert rate.low < 0.75 < rate.high


def test_the_odds_ratio_undoes_the_tilt():
    """Corollary 4.4 and its inverse: α .05 and ω 19 give α_I .5."""
    assert expected_acceptance(0.05, 19) == pytest.approx(0.5)
    ratio = odds_ratio(outcomes([1] * 50 + [0] * 50), outcomes([1] * 5 + [0] * 95))
    assert ratio.value == pytest.approx(19.0)
    assert ratio.low < 19 < ratio.high
    assert (ratio.n, ratio.corrected) == (100, False)


def test_without_pairing_it_is_woolfs_interval():
    """Both sides independent: the variance of the logarithm is the sum of 1/cell."""
    rng = Random(0)
    a = [1] * 120 + [0] * 80
    b = [1] * 60 + [0] * 140
    rng.shuffle(a)
    rng.shuffle(b)
    ratio = odds_ratio(outcomes(a), outcomes(b))
    woolf = 1.96 * math.sqrt(1 / 120 + 1 / 80 + 1 / 60 + 1 / 140)
    assert math.log(ratio.high / ratio.low) / 2 == pytest.approx(woolf, rel=0.08)


def test_pairing_narrows_and_repeated_samples_count_once():
    a, b = [1] * 60 + [0] * 40, [1] * 30 + [0] * 70
    paired = odds_ratio(outcomes(a), outcomes(b))
    crossed = odds_ratio(outcomes(a), outcomes(b[::-1]))
    assert paired.high / paired.low < crossed.high / crossed.low
    doubled = odds_ratio(
        {k: v * 4 for k, v in outcomes(a).items()}, {k: v * 4 for k, v in outcomes(b).items()}
    )
    assert doubled == paired


@pytest.mark.parametrize(("a", "b"), [((1, 1), (0, 1)), ((1, 1), (0, 0)), ((0, 1), (0, 0))])
def test_everything_or_nothing_accepted_is_corrected_and_said(a, b):
    ratio = odds_ratio(outcomes(a * 20), outcomes(b * 20))
    assert ratio.corrected
    assert 1 < ratio.low < ratio.value < ratio.high < math.inf


def test_too_few_prompts_have_no_ratio():
    assert odds_ratio(outcomes([1]), outcomes([0])).value is None
    assert odds_ratio(outcomes([1, 0]), {}).n == 0
    with pytest.raises(ValueError, match="confidence"):
        odds_ratio(outcomes([1, 0]), outcomes([1, 0]), confidence=95)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Prompts differ in how hard they are, so both sides share much: 95 % of 300 intervals."""
    rng = Random(1)
    hits = 0
    for _ in range(300):
        hard = [rng.random() for _ in range(120)]
        # one prompt in two is easy (.8 without, .95 with), the other hard (.1 and .5)
        p = [((0.8, 0.95) if h < 0.5 else (0.1, 0.5)) for h in hard]
        a = outcomes(rng.random() < with_text for _, with_text in p)
        b = outcomes(rng.random() < without for without, _ in p)
        ratio = odds_ratio(a, b)
        truth = (0.725 / 0.275) / (0.45 / 0.55)
        hits += ratio.low <= truth <= ratio.high
    assert 0.91 <= hits / 300 <= 0.985
