"""Shares with intervals. A bare ratio is never reported: each carries its n and its doubt."""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist


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
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, spread = k / n, z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt((p * (1 - p) + spread / 4) / n) / (1 + spread)
    # at the ends the exact bounds are 0 and 1; rounding would leave 1e-17 there
    low = 0.0 if k == 0 else centre - half
    high = 1.0 if k == n else centre + half
    return Rate(p, low, high, n)


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
