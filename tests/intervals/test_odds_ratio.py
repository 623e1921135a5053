"""Acceptance and the odds ratio: the closed forms, the pairing, and that the interval covers."""

import math
from itertools import product
from math import comb
from random import Random

import pytest

from thinksafe_jax.intervals import (
    OddsRatio,
    acceptance,
    expected_acceptance,
    odds_ratio,
    wilson,
)

pytestmark = pytest.mark.slow


def outcomes(flags):
    return {str(n): [bool(flag)] for n, flag in enumerate(flags)}


def test_acceptance_is_a_share_with_its_interval():
    rate = acceptance({"a": [True, False], "b": [True, True]})
    assert (rate.value, rate.n) == (0.75, 4)
    assert rate.low < 0.75 < rate.high


def test_acceptance_is_clustered_by_prompt():
    """Prompts of which each accepts all draws or none: eight draws of each say no more than one."""
    once = acceptance({str(n): [n < 6] for n in range(12)})
    often = acceptance({str(n): [n < 6] * 8 for n in range(12)})
    assert once == wilson(6, 12)
    assert (often.value, often.n) == (0.5, 96)
    assert often.low <= once.low and often.high >= once.high


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
    assert doubled.value == paired.value
    assert doubled.high / doubled.low == pytest.approx(paired.high / paired.low, rel=0.1)


@pytest.mark.parametrize(("a", "b"), [((1, 1), (0, 1)), ((1, 1), (0, 0)), ((0, 1), (0, 0))])
def test_everything_or_nothing_accepted_is_corrected_and_said(a, b):
    ratio = odds_ratio(outcomes(a * 20), outcomes(b * 20))
    assert ratio.corrected
    assert 1 < ratio.low < ratio.value < ratio.high < math.inf


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("shape", [(2, 1), (24, 1), (5, 4), (1, 8)])
def test_all_or_nothing_on_both_sides_says_nothing_of_the_ratio(side, shape):
    prompts, samples = shape
    same = {str(n): [bool(side)] * samples for n in range(prompts)}
    assert odds_ratio(same, same) == OddsRatio(None, None, None, prompts)


@pytest.mark.parametrize("samples", [1, 4, 32])
def test_equal_outcomes_have_an_interval_with_a_width(samples):
    """Two of four prompts accepted on both sides is no proof that steering does nothing."""
    half = {str(n): [n < 2] * samples for n in range(4)}
    ratio = odds_ratio(half, half)
    assert ratio.value == pytest.approx(1.0)
    assert ratio.low < 0.8
    assert ratio.high > 1.25


def tables(n):
    """Every way to share n prompts among (both accepted, steered only, plain only, neither)."""
    up_to = range(n + 1)
    return [(i, j, k, n - i - j - k) for i, j, k in product(up_to, repeat=3) if i + j + k <= n]


@pytest.mark.parametrize("omega", [1, 4, 19])
@pytest.mark.parametrize("alphas", [(0.3,), (0.05, 0.4), (0.02, 0.98), (0.1, 0.8)])
def test_the_interval_covers_with_eight_prompts(alphas, omega):
    """Exactly, over all 165 tables: prompts of these α in equal shares, each tilted by ω."""
    pairs = [(expected_acceptance(alpha, omega), alpha) for alpha in alphas]
    steered, plain = (sum(side) / len(alphas) for side in zip(*pairs, strict=True))
    truth = steered / (1 - steered) * (1 - plain) / plain
    cells = [sum(c) / len(alphas) for c in zip(
        *((a * b, a * (1 - b), (1 - a) * b, (1 - a) * (1 - b)) for a, b in pairs), strict=True
    )]  # fmt: skip
    covered = 0.0
    for i, j, k, m in tables(8):
        ratio = odds_ratio(
            outcomes([1] * i + [1] * j + [0] * k + [0] * m),
            outcomes([1] * i + [0] * j + [1] * k + [0] * m),
        )
        ways = comb(8, i) * comb(8 - i, j) * comb(8 - i - j, k)
        chance = ways * math.prod(p**n for p, n in zip(cells, (i, j, k, m), strict=True))
        if ratio.value is None or ratio.low <= truth <= ratio.high:
            covered += chance
    assert covered > 0.94


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
