"""Intervals that resample: what they say where there is nothing to resample."""

import pytest

from thinksafe_jax.intervals import mean_interval, paired_difference


@pytest.mark.parametrize("n", [1, 2, 20])
@pytest.mark.parametrize("change", [-1.0, 0.0, 0.5, 1.0])
def test_problems_that_all_differ_alike_leave_an_interval(n, change):
    """A share of others as large as 0 of n allows may lie behind them, and differ by -1 or by 1."""
    left = {str(k): 0.0 for k in range(n)}
    found = paired_difference(left, dict.fromkeys(left, change))
    others = 1 - 0.025 ** (1 / n)
    assert (found.value, found.n) == (change, n)
    assert found.low == pytest.approx(change - others * (1 + change))
    assert found.high == pytest.approx(change + others * (1 - change))


def test_one_row_has_a_mean_and_no_interval():
    assert mean_interval([2.0], [7]) == {"value": 2.0, "low": None, "high": None, "n": 1}
    two = mean_interval([1.0, 3.0])
    assert (two["low"], two["value"], two["high"]) == (1.0, 2.0, 3.0)
