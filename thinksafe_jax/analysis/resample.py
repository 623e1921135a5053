"""Means of unbounded quantities with bootstrap intervals."""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000


def mean_interval(values: Sequence[float], weights: Sequence[float] | None = None) -> dict:
    """Weighted mean with a 95 % bootstrap interval over rows: {value, low, high, n}.

    With the tokens of each row as weights and the row's mean as value this is a token mean whose
    interval still resamples whole rows.
    """
    data = np.asarray(values, np.float64)
    mass = np.ones_like(data) if weights is None else np.asarray(weights, np.float64)
    if not data.size or not mass.sum():
        return {"value": None, "low": None, "high": None, "n": int(data.size)}
    counts = np.random.default_rng(0).multinomial(
        data.size, np.full(data.size, 1 / data.size), size=RESAMPLES
    )
    totals = counts @ mass
    means = np.divide(counts @ (mass * data), totals, where=totals > 0, out=np.zeros(RESAMPLES))
    low, high = np.quantile(means[totals > 0], [0.025, 0.975])
    value = float((mass * data).sum() / mass.sum())
    return {"value": value, "low": float(low), "high": float(high), "n": int(data.size)}


def mapped(rate: dict, function: Callable[[float], float]) -> dict:
    """The rate through an increasing function, interval ends included."""
    return {k: (v if k == "n" or v is None else float(function(v))) for k, v in rate.items()}
