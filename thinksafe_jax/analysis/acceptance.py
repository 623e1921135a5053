"""Acceptance of a source and the odds ratio of a steering text (paper section 4, Corollary 4.4).

α is the probability that a response is accepted: its form is sound and the guard says safe. Under
the refusal tilt a steering text multiplies the odds of acceptance by one number ω for a prompt:

    α_I = ω α / (1 + (ω - 1) α)          ω = [α_I / (1 - α_I)] / [α / (1 - α)]

ω̂ is that of the whole sample of prompts. Steered and unsteered responses answer the same prompts,
and a prompt may be answered several times; the interval resamples nothing but counts each prompt
once (the delta method on prompts' means), so it holds for both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

from thinksafe_jax.evaluation.statistics import Rate, wilson


@dataclass(frozen=True)
class OddsRatio:
    """ω̂ with its interval over `n` prompts.

    `corrected` says that one side accepted everything or nothing: half a response was then added
    to each cell (Haldane and Anscombe), because the plain ratio has no finite value.
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

    Raises:
        ValueError: confidence not inside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number inside (0, 1)")
    shared = sorted(id for id in steered if steered[id] and plain.get(id))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    draws = [(sum(d[id]), len(d[id])) for d in (steered, plain) for id in shared]
    if len(shared) < 2:
        few = not shared or min(n for _, n in draws) < 2
        return OddsRatio(None, None, None, len(shared)) if few else _woolf(draws[0], draws[1], 1, z)
    with_text = [_mean(steered[id]) for id in shared]
    without = [_mean(plain[id]) for id in shared]
    n, a, b = len(shared), _mean(with_text), _mean(without)
    if not (0 < a < 1 and 0 < b < 1):
        return _woolf((a * n, n), (b * n, n), n, z)
    value = math.log(a / (1 - a)) - math.log(b / (1 - b))
    # each prompt's pull on the logarithm of the odds ratio; pairing cancels what both share
    pulls = [
        (x - a) / (a * (1 - a)) - (y - b) / (b * (1 - b))
        for x, y in zip(with_text, without, strict=True)
    ]
    half = z * math.sqrt(sum(pull * pull for pull in pulls) / (n * (n - 1)))
    return OddsRatio(math.exp(value), math.exp(value - half), math.exp(value + half), n)


def expected_acceptance(alpha: float, omega: float) -> float:
    """α_I from α and ω (Corollary 4.4)."""
    return omega * alpha / (1 + (omega - 1) * alpha)


def _woolf(
    steered: tuple[float, int], plain: tuple[float, int], prompts: int, z: float
) -> OddsRatio:
    """Both sides, as (accepted, drawn), taken as independent (Woolf).

    Where one accepted all or nothing, half a response is added to each of the four cells.
    """
    cells = [steered[0], steered[1] - steered[0], plain[0], plain[1] - plain[0]]
    corrected = min(cells) == 0
    if corrected:
        cells = [cell + 0.5 for cell in cells]
    value = math.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    half = z * math.sqrt(sum(1 / cell for cell in cells))
    low, high = math.exp(value - half), math.exp(value + half)
    return OddsRatio(math.exp(value), low, high, prompts, corrected)


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values)
