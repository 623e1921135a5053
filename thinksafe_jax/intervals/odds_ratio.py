"""ω̂, the odds ratio by which a steering text raises acceptance, and α with its interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

from thinksafe_jax.intervals.quantiles import t_quantile
from thinksafe_jax.intervals.shares import Rate, clustered


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
    """α over all responses, its interval clustered by prompt; Wilson's of one response a prompt."""
    return clustered([list(map(float, of)) for of in outcomes.values()], confidence)


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
    t = t_quantile(len(pairs) - 1, (1 + confidence) / 2)
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
