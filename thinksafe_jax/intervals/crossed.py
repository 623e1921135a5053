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

A measure is the mean of several suites, and two of them may ask the same question, as a plain and
a prefix attack do. Columns of one name are one question: what it adds to each is added up first.

A few seeds say little of their own spread, so quantiles are Student's, with the degrees of freedom
that Satterthwaite's formula gives the sum. In worlds of known truth with five seeds and 250
questions, 95 % intervals held it 94 to 98 times in 100.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float

from thinksafe_jax.intervals.quantiles import t_quantile
from thinksafe_jax.intervals.shares import wilson_interval


@dataclass(frozen=True, eq=False)
class Answers:
    """What the seeds of a method said to the questions of one suite.

    Attributes:
        questions: names of the columns, each once; equal names in two suites are one question.
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
        n: different questions.
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
    (z / t)². It stays in [0, 1] and has a width at 0 and 1, where each different question with an
    answer that could be read is one trial. Of one seed it knows the questions alone.

    Args:
        suites: one or more, with the same seeds in the same order.
    """
    if not _are_answered(suites):
        return _NOTHING
    names = [suite.questions for suite in suites]
    rates = np.stack([_rates(suite) for suite in suites])  # [K, S]
    p = float(rates.mean())
    answered = [_answered(suite)[None] for suite in suites]
    weights = _united(names, [there / there.sum() / len(names) for there in answered])
    trials = 1 / float((weights**2).sum())
    if 0 < p < 1:
        variance, freedom = _variance(names, [_shares(suite) for suite in suites])
        total = float(_united(names, [suite.counts for suite in suites], np.maximum).sum())
        few = _few(freedom, confidence)
        trials = min(total, p * (1 - p) / variance) * few if variance > 0 else total
    low, high = wilson_interval(p, trials, confidence)
    seeds = rates.mean(axis=0)
    return Estimate(p, low, high, _sd(seeds), tuple(map(float, seeds)), weights.size)


def crossed_difference(
    left: Sequence[Answers], right: Sequence[Answers], confidence: float = 0.95
) -> Estimate:
    """`right - left` of two methods on the questions that both have, with Student's interval.

    A question that both find hard cancels. Seeds are compared in their order: they have nothing in
    common but the number, and the spread of the pairs is that of both methods together. Where no
    question differs, or all that differs cancels, the interval is what no difference still allows
    in n questions that both have an answer to that could be read.

    Args:
        left, right: the same suites, with the same seeds in the same order.
    """
    pairs = [
        (a.of(questions), b.of(questions))
        for a, b in zip(left, right, strict=True)
        if (questions := _shared(a, b))
    ]
    if not _are_answered([side for pair in pairs for side in pair]):
        return _NOTHING
    seeds = np.stack([_rates(b) - _rates(a) for a, b in pairs]).mean(axis=0)
    names = [a.questions for a, _ in pairs]
    value, n = float(seeds.mean()), len({q for of_suite in names for q in of_suite})
    parts = [_shares(b) - _shares(a) for a, b in pairs]
    variance, freedom = _variance(names, parts)
    tail = (1 - confidence) / 2
    half = t_quantile(freedom, 1 - tail) * math.sqrt(variance)
    if variance <= 0:
        answered = {q for a, b in pairs for q in np.array(a.questions)[_answered(a, b)]}
        half = 1 - tail ** (1 / max(1, len(answered)))
    low, high = max(-1.0, value - half), min(1.0, value + half)
    return Estimate(value, low, high, _sd(seeds), tuple(map(float, seeds)), n)


def _shared(left: Answers, right: Answers) -> list[str]:
    """Questions that both have, in the order of the left."""
    asked = set(right.questions)
    return [question for question in left.questions if question in asked]


def _answered(*sides: Answers) -> Bool[np.ndarray, " P"]:
    """Which of the questions each of these has an answer to that could be read."""
    return np.logical_and.reduce([side.counts.any(axis=0) for side in sides])


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


def _united(
    names: Sequence[Sequence[str]],
    parts: Sequence[Float[np.ndarray, "S _"]],
    join: Callable[..., np.ndarray] = np.add,
) -> Float[np.ndarray, "S Q"]:
    """One column for each of the Q different questions: those of equal names, joined.

    Args:
        names: questions of each suite, [P] of each.
        parts: columns of each suite, [S, P] of each.
    """
    place = {name: n for n, name in enumerate(dict.fromkeys(q for of in names for q in of))}
    united = np.zeros((len(parts[0]), len(place)))
    for of_suite, part in zip(names, parts, strict=True):
        columns = [place[name] for name in of_suite]
        united[:, columns] = join(united[:, columns], part)
    return united


def _variance(
    names: Sequence[Sequence[str]], parts: Sequence[Float[np.ndarray, "S _"]]
) -> tuple[float, float]:
    """(variance of the mean over suites, its degrees of freedom) of what the cells add.

    Args:
        names: questions of each suite.
        parts: `_shares` of each suite, or differences of them.
    """
    parts = [part / len(parts) for part in parts]
    count = len(parts[0])
    cells = _united(names, parts)  # [S, Q]
    by_question = _united(
        names,
        [part.sum(axis=0, keepdims=True) * math.sqrt(_bessel(part.shape[1])) for part in parts],
    )  # [1, Q]
    of_questions, of_cells = float((by_question**2).sum()), float((cells**2).sum())
    of_seeds = _bessel(count) * float((cells.sum(axis=1) ** 2).sum()) if count > 1 else 0.0
    between = max(0.0, of_seeds - of_cells)
    means = len({frozenset(of_suite) for of_suite in names})  # suites of equal questions have one
    freedom = max(1.0, cells.shape[1] - means)
    variance = between + of_questions
    if of_seeds > 0:  # not less the cells: with few seeds that difference is often 0 by chance
        freedom = variance**2 / (of_seeds**2 / (count - 1) + of_questions**2 / freedom)
    return variance, max(1.0, freedom)


def _bessel(count: int) -> float:
    """N / (N - 1); 1 of one."""
    return count / max(1, count - 1)


def _few(freedom: float, confidence: float) -> float:
    """(z / t)²: what few seeds or questions leave of a trial."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return (z / t_quantile(freedom, (1 + confidence) / 2)) ** 2


def _sd(values: Float[np.ndarray, " S"]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
