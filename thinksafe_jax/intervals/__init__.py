"""Every interval and test that is reported: a bare ratio is never shown without its doubt."""

from thinksafe_jax.intervals.bootstrap import mapped, mean_interval, paired_difference
from thinksafe_jax.intervals.crossed import Answers, Estimate, crossed, crossed_difference
from thinksafe_jax.intervals.odds_ratio import (
    OddsRatio,
    Outcomes,
    acceptance,
    expected_acceptance,
    odds_ratio,
)
from thinksafe_jax.intervals.shares import Rate, clustered, difference, pass_at_k, wilson

__all__ = [
    "Answers",
    "Estimate",
    "OddsRatio",
    "Outcomes",
    "Rate",
    "acceptance",
    "clustered",
    "crossed",
    "crossed_difference",
    "difference",
    "expected_acceptance",
    "mapped",
    "mean_interval",
    "odds_ratio",
    "paired_difference",
    "pass_at_k",
    "wilson",
]
