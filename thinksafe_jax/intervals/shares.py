"""Shares with intervals. A bare ratio is never reported: each carries its n and its doubt."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

from thinksafe_jax.intervals.quantiles import t_quantile


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1] with its interval; all three are None where nothing was counted."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict:
        """The form in which rates stand in every JSON file of a run."""
        return asdict(self)


def wilson(k: int, n: int, confidence: float = 0.95) -> Rate:
    """Wilson's score interval of `k` hits in `n` trials.

    It stays inside [0, 1] and is honest at 0 of n and n of n, where the textbook normal interval
    has no width (0 of 313: 0 to 1.2 %).

    Raises:
        ValueError: not 0 <= k <= n, or confidence not inside (0, 1).
    """
    if not 0 <= k <= n:
        raise ValueError(f"wilson: {k} hits of {n} trials is not a share")
    if n == 0:
        return Rate(None, None, None, 0)
    return Rate(k / n, *wilson_interval(k / n, n, confidence), n)


def difference(before: Rate, after: Rate) -> Rate:
    """`after - before` with Newcombe's interval, made from the two Wilson intervals.

    It treats the two as independent samples. Before and after answer the same prompts, so the true
    interval is usually narrower: this one errs on the careful side and needs no rows.
    Source: Newcombe 1998, Statistics in Medicine 17:873-890, method 10.
    """
    n = min(before.n, after.n)
    if n == 0:
        return Rate(None, None, None, 0)
    b, b_low, b_high = _numbers(before)
    a, a_low, a_high = _numbers(after)
    delta = a - b
    low = delta - math.hypot(a - a_low, b_high - b)
    high = delta + math.hypot(a_high - a, b - b_low)
    return Rate(delta, low, high, n)


def _numbers(rate: Rate) -> tuple[float, float, float]:
    if rate.value is None or rate.low is None or rate.high is None:
        raise ValueError(f"a rate over {rate.n} rows has no value: {rate}")
    return rate.value, rate.low, rate.high


def clustered(clusters: Sequence[Sequence[float]], confidence: float = 0.95) -> Rate:
    """The mean of values that come in clusters: samples of a problem, variants of an objective.

    Wilson's interval with the effective number of trials that the scatter between clusters leaves:
    n_eff = p (1 - p) / SE², with the cluster-robust SE (arXiv 2411.00640, section 2.2), scaled by
    (z / t)² for the few clusters (Korn and Graubard 1998). It stays inside [0, 1] and has a width
    at 0 and 1, where each cluster counts as one trial.

    Args:
        clusters: values in [0, 1] of each cluster; clusters may differ in size.

    Returns:
        The mean over all values, its interval, and the number of values as n.
    """
    groups = [list(map(float, group)) for group in clusters if len(group)]
    n = sum(map(len, groups))
    if n == len(groups) and all(group[0] in (0.0, 1.0) for group in groups):
        return wilson(int(sum(map(sum, groups))), n, confidence)
    p = sum(map(sum, groups)) / n
    effective = _effective_trials(groups, p, n, confidence)
    interval = wilson_interval(p, effective, confidence)
    return Rate(p, *interval, n)


def _effective_trials(groups: list[list[float]], p: float, n: int, confidence: float) -> float:
    count = len(groups)
    if count < 2:
        return 1.0
    residuals = [sum(group) - p * len(group) for group in groups]
    variance = count / (count - 1) * sum(r * r for r in residuals) / n**2
    if p in (0.0, 1.0):
        return float(count)
    if variance <= 0:  # every cluster alike: nothing speaks against the values as trials
        return float(n)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    few = (z / t_quantile(count - 1, (1 + confidence) / 2)) ** 2
    return min(float(n), p * (1 - p) / variance) * few


def wilson_interval(p: float, n: float, confidence: float) -> tuple[float, float]:
    """The ends of Wilson's interval of a share `p` in `n` trials, which may be no whole number."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    spread = z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt((p * (1 - p) + spread / 4) / n) / (1 + spread)
    # at the ends the exact bounds are 0 and 1; rounding would leave 1e-17 there
    return 0.0 if p == 0 else max(0.0, centre - half), 1.0 if p == 1 else min(1.0, centre + half)


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Unbiased chance that one of k samples is right, from `correct` of `samples` that were.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1.

    Raises:
        ValueError: k is above the number of samples, which has no unbiased estimate.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
