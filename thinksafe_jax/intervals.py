"""Shares with intervals. A bare ratio is never reported: each carries its n and its doubt."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit


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
    return Rate(k / n, *_wilson_interval(k / n, n, confidence), n)


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
    interval = _wilson_interval(p, effective, confidence)
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
    from scipy.stats import t

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    few = (z / float(t.ppf((1 + confidence) / 2, count - 1))) ** 2
    return min(float(n), p * (1 - p) / variance) * few


def _wilson_interval(p: float, n: float, confidence: float) -> tuple[float, float]:
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


def paired_difference(
    left: Mapping[str, float],
    right: Mapping[str, float],
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Rate:
    """Mean of `right - left` over the problems that both have, by bootstrap over problems.

    Resampling whole problems keeps the pairing and the samples of a problem together. Where no
    problem differs the bootstrap has no width; then the interval is what no difference in n
    problems still allows, as at 0 of n: 1 - ((1 - confidence) / 2)^(1/n).

    Args:
        left, right: a problem's mean outcome by its id.

    Returns:
        Difference, interval and the number of problems compared.
    """
    import numpy as np

    common = sorted(left.keys() & right.keys())
    if not common:
        return Rate(None, None, None, 0)
    n, tail = len(common), (1 - confidence) / 2
    differences = np.array([right[key] - left[key] for key in common])
    if not differences.any():
        width = 1 - tail ** (1 / n)
        return Rate(0.0, -width, width, n)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    low, high = np.quantile(weights @ differences / n, [tail, 1 - tail])
    return Rate(float(differences.mean()), float(low), float(high), n)


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


@dataclass(frozen=True)
class OddsRatio:
    """ω̂ with its interval over `n` prompts.

    `corrected` says that one side accepted everything or nothing: the value, too, is then that
    with half a pair of responses added to each cell, because the plain ratio is not finite.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    corrected: bool = False

    def as_dict(self) -> dict:
        return asdict(self)


Outcomes = Mapping[str, Sequence[bool]]  # prompt id -> whether each of its responses was accepted


def acceptance(outcomes: Outcomes, confidence: float = 0.95) -> Rate:
    """α over all responses, with Wilson's interval (for one response a prompt it is exact)."""
    flags = [flag for responses in outcomes.values() for flag in responses]
    return wilson(sum(flags), len(flags), confidence)


def odds_ratio(steered: Outcomes, plain: Outcomes, confidence: float = 0.95) -> OddsRatio:
    """ω̂ of `steered` over `plain`, on the prompts that both have answered.

    Of one prompt alone it is its draws that vary: Woolf's interval.

    Returns:
        No value where too few responses are shared, or both sides accepted all or both nothing.

    Raises:
        ValueError: confidence not inside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number inside (0, 1)")
    shared = sorted(id for id in steered if steered[id] and plain.get(id))
    draws = [(sum(d[id]), len(d[id])) for d in (steered, plain) for id in shared]
    if len(shared) < 2:
        few = not shared or min(n for _, n in draws) < 2 or _alike_at_an_end(draws)
        return (
            OddsRatio(None, None, None, len(shared))
            if few
            else _woolf(draws[0], draws[1], confidence)
        )
    if _alike_at_an_end(draws):
        return OddsRatio(None, None, None, len(shared))
    pairs = [(_mean(steered[id]), _mean(plain[id])) for id in shared]
    weight = 0.5 * len(draws) / sum(n for _, n in draws)  # of half a response, in prompts
    centre, half = _pooled(pairs, weight, confidence)
    a, b = (_mean(side) for side in zip(*pairs, strict=True))
    corrected = not (0 < a < 1 and 0 < b < 1)
    value = centre if corrected else _log_odds(a) - _log_odds(b)
    low, high = math.exp(centre - half), math.exp(centre + half)
    return OddsRatio(math.exp(value), low, high, len(shared), corrected)


def _pooled(
    pairs: Sequence[tuple[float, float]], weight: float, confidence: float
) -> tuple[float, float]:
    """(centre, half width) of the interval of log ω̂.

    Args:
        pairs: shares accepted of each prompt, steered and plain.
        weight: of each of the four pairs that are added.
    """
    weighted = [(x, y, 1.0) for x, y in pairs]
    weighted += [(x, y, weight) for x in (0.0, 1.0) for y in (0.0, 1.0)]
    n = sum(w for _, _, w in weighted)
    a, b = (sum(pair[side] * pair[2] for pair in weighted) / n for side in (0, 1))
    # each pair's pull on the logarithm of the odds ratio; pairing cancels what both share
    squares = sum(
        w * ((x - a) / (a * (1 - a)) - (y - b) / (b * (1 - b))) ** 2 for x, y, w in weighted
    )
    t = float(stdtrit(len(pairs) - 1, (1 + confidence) / 2))
    return _log_odds(a) - _log_odds(b), t * math.sqrt(squares / (n * (n - 1)))


def _alike_at_an_end(draws: Sequence[tuple[int, int]]) -> bool:
    """Whether everything was accepted, or nothing: then any ω would have done so."""
    return sum(k for k, _ in draws) in (0, sum(n for _, n in draws))


def expected_acceptance(alpha: float, omega: float) -> float:
    """α_I from α and ω (Corollary 4.4)."""
    return omega * alpha / (1 + (omega - 1) * alpha)


def _woolf(steered: tuple[int, int], plain: tuple[int, int], confidence: float) -> OddsRatio:
    """One prompt's draws, as (accepted, drawn), independent on both sides (Woolf).

    Where one accepted all or nothing, half a response is added to each of the four cells.
    """
    cells: list[float] = [steered[0], steered[1] - steered[0], plain[0], plain[1] - plain[0]]
    corrected = min(cells) == 0
    if corrected:
        cells = [cell + 0.5 for cell in cells]
    value = math.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * math.sqrt(sum(1 / cell for cell in cells))
    return OddsRatio(math.exp(value), math.exp(value - half), math.exp(value + half), 1, corrected)


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values)
