"""Intervals against published and known values."""

import pytest

from thinksafe_jax.intervals import Rate, difference, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (60, 602, 0.078, 0.126),  # HarmBench, 10 % of 602
        (0, 313, 0.0, 0.012),  # StrongREJECT, none of 313
        (600, 2000, 0.28, 0.32),  # WildJailbreak, 30 % of 2,000
        (12, 250, 0.028, 0.082),  # XSTest, 5 % of 250
    ],
)
def test_wilson_against_known_values(k, n, low, high):
    rate = wilson(k, n)
    assert rate.low == pytest.approx(low, abs=6e-4)
    assert rate.high == pytest.approx(high, abs=6e-4)


def test_wilson_at_the_ends_is_exact_and_never_without_width():
    none, every = wilson(0, 20), wilson(20, 20)
    assert none.low == 0.0 and none.high > 0.1
    assert every.high == 1.0 and every.low < 0.9


def test_nothing_counted_has_no_value():
    assert wilson(0, 0).as_dict() == {"value": None, "low": None, "high": None, "n": 0}
    assert difference(wilson(0, 0), wilson(1, 2)) == Rate(None, None, None, 0)


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 2), (1, 0)])
def test_impossible_counts_raise(k, n):
    with pytest.raises(ValueError, match="not a share"):
        wilson(k, n)


def test_wider_confidence_gives_a_wider_interval():
    narrow, wide = wilson(30, 100, 0.8), wilson(30, 100, 0.99)
    assert wide.low < narrow.low < 0.3 < narrow.high < wide.high


def test_difference_matches_newcombes_worked_example():
    # Newcombe 1998, table II (a): 56/70 and 48/80 give 0.2000, interval 0.0524 to 0.3339
    rate = difference(wilson(48, 80), wilson(56, 70))
    assert rate.value == pytest.approx(0.2)
    assert (rate.low, rate.high) == (
        pytest.approx(0.0524, abs=1e-4),
        pytest.approx(0.3339, abs=1e-4),
    )
