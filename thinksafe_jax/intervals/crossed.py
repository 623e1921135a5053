"""Rates and differences over seeds and questions, with intervals that know of both.

A method is trained with a few seeds, and every seed answers the same questions:

                 question 1   question 2   ...   question P
    seed 1           0            1                  1          a mean of each row: that seed's rate
    seed 2           0            1                  0
    ...
    seed S           0            0                  1

Another seed would give other rows, other questions other columns. The variance of the mean is taken
over both (two-way clustering: Cameron, Gelbach and Miller 2011, equation 2.11):

    V = V_seeds + V_questions - V_cells

A few seeds say little of their own spread, so quantiles are Student's, with the degrees of freedom
that Satterthwaite's formula gives the sum. In worlds of known truth with five seeds and 250
questions, 95 % intervals held it 94 to 98 times in 100.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from thinksafe_jax.intervals.quantiles import t_quantile
from thinksafe_jax.intervals.shares import wilson_interval


@dataclass(frozen=True, eq=False)
class Answers:
    """What the seeds of a method said to the questions of one suite.

    Attributes:
        questions: names of the columns.
        hits: answers that count towards the rate, [S, P].
        counts: answers that were counted, [S, P]; 0 where none could be read.
    """

    questions: tuple[str, ...]
    hits: Float[np.ndarray, "S P"]
    counts: Float[np.ndarray, "S P"]

    def of(self, questions: Sequence[str]) -> "Answers":
        """The columns of these questions, in their order."""
        place = {name: n for n, name in enumerate(self.questions)}
        columns = [place[name] for name in questions]
        return Answers(tuple(questions), self.hits[:, columns], self.counts[:, columns])


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval; value and ends are None where a seed has no answer.

    Attributes:
        value, low, high: a share, or a difference of shares.
        sd: standard deviation over seeds; None of one seed.
        seeds: the value of each seed, in order.
        n: questions.
    """

    value: float | None
    low: float | None
    high: float | None
    sd: float | None
    seeds: tuple[float, ...]
    n: int

    def as_dict(self) -> dict:
        """The form in which estimates stand in JSON files."""
        return asdict(self) | {"seeds": list(self.seeds)}


_NOTHING = Estimate(None, None, None, None, (), 0)


def crossed(suites: Sequence[Answers], confidence: float = 0.95) -> Estimate:
    """The rate of a method: the mean over suites of the mean over seeds.

    The interval is Wilson's with the number of trials that V leaves, p (1 - p) / V, scaled by
    (z / t)². It stays in [0, 1] and has a width at 0 and 1, where each question is one trial. Of
    one seed it knows the questions alone.

    Args:
        suites: one or more, with the same seeds in the same order.
    """
    if not _are_answered(suites):
        return _NOTHING
    rates = np.stack([_rates(suite) for suite in suites])  # [K, S]
    p, n = float(rates.mean()), sum(len(suite.questions) for suite in suites)
    trials = len(suites) ** 2 / sum(1 / len(suite.questions) for suite in suites)
    if 0 < p < 1:
        variance, freedom = _variance([_shares(suite) for suite in suites])
        total = float(sum(suite.counts.sum() for suite in suites))
        few = _few(freedom, confidence)
        trials = min(total, p * (1 - p) / variance) * few if variance > 0 else total
    low, high = wilson_interval(p, trials, confidence)
    return Estimate(p, low, high, _sd(rates.mean(axis=0)), tuple(map(float, rates.mean(axis=0))), n)


def crossed_difference(
    left: Sequence[Answers], right: Sequence[Answers], confidence: float = 0.95
) -> Estimate:
    """`right - left` of two methods on the questions that both have, with Student's interval.

    A question that both find hard cancels. Seeds are compared in their order: they have nothing in
    common but the number, and the spread of the pairs is that of both methods together. Where no
    question differs the interval is what no difference in n questions still allows.

    Args:
        left, right: the same suites, with the same seeds in the same order.
    """
    shared = [[q for q in a.questions if q in set(b.questions)] for a, b in _pairs(left, right)]
    pairs = [
        (a.of(questions), b.of(questions))
        for (a, b), questions in zip(_pairs(left, right), shared, strict=True)
        if questions
    ]
    if not _are_answered([side for pair in pairs for side in pair]):
        return _NOTHING
    seeds = np.stack([_rates(b) - _rates(a) for a, b in pairs]).mean(axis=0)
    value, n = float(seeds.mean()), sum(map(len, shared))
    parts = [_shares(b) - _shares(a) for a, b in pairs]
    variance, freedom = _variance(parts)
    tail = (1 - confidence) / 2
    half = t_quantile(freedom, 1 - tail) * math.sqrt(variance)
    if not any(part.any() for part in parts):
        half = 1 - tail ** (1 / n)
    low, high = max(-1.0, value - half), min(1.0, value + half)
    return Estimate(value, low, high, _sd(seeds), tuple(map(float, seeds)), n)


def _pairs(left: Sequence[Answers], right: Sequence[Answers]) -> list[tuple[Answers, Answers]]:
    return list(zip(left, right, strict=True))


def _are_answered(suites: Sequence[Answers]) -> bool:
    """Whether every seed has an answer to every suite that could be read."""
    return bool(suites) and all(suite.counts.sum(axis=1).all() for suite in suites)


def _rates(suite: Answers) -> Float[np.ndarray, " S"]:
    return suite.hits.sum(axis=1) / suite.counts.sum(axis=1)


def _shares(suite: Answers) -> Float[np.ndarray, "S P"]:
    """What each cell adds to the rate of its suite, less what it would add at the mean rate.

    Rows sum to a seed's rate less the mean, over S.
    """
    residuals = suite.hits - _rates(suite).mean() * suite.counts
    return residuals / suite.counts.sum(axis=1, keepdims=True) / len(suite.hits)


def _variance(parts: Sequence[Float[np.ndarray, "S _"]]) -> tuple[float, float]:
    """(variance of the mean over suites, its degrees of freedom) of what the cells add.

    Args:
        parts: `_shares` of each suite, or differences of them.
    """
    parts = [part / len(parts) for part in parts]
    count = len(parts[0])
    by_seed = np.sum([part.sum(axis=1) for part in parts], axis=0)  # [S]
    of_questions = sum(
        part.shape[1] / max(1, part.shape[1] - 1) * float((part.sum(axis=0) ** 2).sum())
        for part in parts
    )
    of_cells = sum(float((part**2).sum()) for part in parts)
    of_seeds = count / (count - 1) * float((by_seed**2).sum()) if count > 1 else 0.0
    between = max(0.0, of_seeds - of_cells)
    columns = sum(part.shape[1] for part in parts)
    freedom = max(1, columns - len(parts))
    variance = between + of_questions
    if of_seeds > 0:  # not less the cells: with few seeds that difference is often 0 by chance
        freedom = variance**2 / (of_seeds**2 / (count - 1) + of_questions**2 / freedom)
    return variance, float(freedom)


def _few(freedom: float, confidence: float) -> float:
    """(z / t)²: what few seeds or questions leave of a trial."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return (z / t_quantile(freedom, (1 + confidence) / 2)) ** 2


def _sd(values: Float[np.ndarray, " S"]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
