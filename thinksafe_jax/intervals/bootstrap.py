"""Means and paired differences whose intervals resample whole problems or rows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from thinksafe_jax.intervals.shares import Rate


def paired_difference(
    left: Mapping[str, float],
    right: Mapping[str, float],
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Rate:
    """Mean of `right - left` over the problems that both have, by bootstrap over problems.

    Resampling whole problems keeps the pairing and the samples of a problem together. Where all of
    n problems differ alike, as where none differs or n is 1, the bootstrap has no width. The
    interval is then what may hide behind them: a share of others as large as 0 of n still allows,
    1 - ((1 - confidence) / 2)^(1/n), that all differ by -1, or by 1.

    Args:
        left, right: a problem's mean outcome by its id.

    Returns:
        Difference, interval and the number of problems compared.
    """
    common = sorted(left.keys() & right.keys())
    if not common:
        return Rate(None, None, None, 0)
    n, tail = len(common), (1 - confidence) / 2
    differences = np.array([right[key] - left[key] for key in common])
    value = float(differences.mean())
    if (differences == differences[0]).all():
        others = 1 - tail ** (1 / n)
        return Rate(value, value - others * (1 + value), value + others * (1 - value), n)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    low, high = np.quantile(weights @ differences / n, [tail, 1 - tail])
    return Rate(value, float(low), float(high), n)


RESAMPLES = 2000


def mean_interval(values: Sequence[float], weights: Sequence[float] | None = None) -> dict:
    """Weighted mean with a 95 % bootstrap interval over rows: {value, low, high, n}.

    With the tokens of each row as weights and the row's mean as value this is a token mean whose
    interval still resamples whole rows. Of one row there is no interval: its ends are None.
    """
    data = np.asarray(values, np.float64)
    mass = np.ones_like(data) if weights is None else np.asarray(weights, np.float64)
    if not data.size or not mass.sum():
        return {"value": None, "low": None, "high": None, "n": int(data.size)}
    value = float((mass * data).sum() / mass.sum())
    if data.size == 1:
        return {"value": value, "low": None, "high": None, "n": 1}
    counts = np.random.default_rng(0).multinomial(
        data.size, np.full(data.size, 1 / data.size), size=RESAMPLES
    )
    totals = counts @ mass
    means = np.divide(counts @ (mass * data), totals, where=totals > 0, out=np.zeros(RESAMPLES))
    low, high = np.quantile(means[totals > 0], [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high), "n": int(data.size)}


def mapped(rate: dict, function: Callable[[float], float]) -> dict:
    """The rate through an increasing function, interval ends included."""
    return {k: (v if k == "n" or v is None else float(function(v))) for k, v in rate.items()}
