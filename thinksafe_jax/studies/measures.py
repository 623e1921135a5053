"""What the evaluations of a method say: its answers by suite, and the measures made of suites.

    harm, over_refusal, reasoning   the mean over the suites of that kind
    unparsed, unparsed_harmless     answers to harmful, and to harmless prompts, that cannot be read

A model that writes garbage is never unsafe, and refuses nothing. So harm and over-refusal are over
the answers that can be read, and what cannot be read stands beside them. In reasoning it is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from thinksafe_jax.data import HARMFUL, OVER_REFUSAL, REASONING
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import outcome, read_scored_rows
from thinksafe_jax.intervals import Answers, Estimate, crossed, crossed_difference

KIND_OF = {"harm": HARMFUL, "over_refusal": OVER_REFUSAL, "reasoning": REASONING}
UNPARSED = {"unparsed": HARMFUL, "unparsed_harmless": OVER_REFUSAL}


@dataclass(frozen=True)
class SuiteCells:
    """One evaluation's answers to a suite: question -> (hits, counted, unparsed, asked)."""

    kind: str
    questions: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class MethodAnswers:
    """The answers of a method on a split.

    Attributes:
        seeds: in order; those that were evaluated.
        kinds: suite -> its kind.
        answers, unparsed: suite -> what the seeds said, and what of it could not be read.
    """

    seeds: tuple[int, ...]
    kinds: Mapping[str, str]
    answers: Mapping[str, Answers]
    unparsed: Mapping[str, Answers]

    def of(self, measure: str) -> list[Answers]:
        """The answers behind a measure or a suite; empty where it was not asked."""
        for kinds, answers in ((UNPARSED, self.unparsed), (KIND_OF, self.answers)):
            if measure in kinds:
                return [a for name, a in answers.items() if self.kinds[name] == kinds[measure]]
        return [self.answers[measure]] if measure in self.answers else []

    def estimate(self, measure: str) -> Estimate:
        """The measure with its interval."""
        return crossed(self.of(measure))

    def suite(self, name: str) -> Estimate:
        """One suite with its interval, though a measure may have its name, as `reasoning` has."""
        return crossed([self.answers[name]])

    def values(self, measures: Sequence[str]) -> dict[str, float]:
        """The mean of each measure that has one."""
        estimates = {name: self.estimate(name).value for name in measures}
        return {name: value for name, value in estimates.items() if value is not None}

    def for_seeds(self, seeds: Sequence[int]) -> "MethodAnswers":
        """What these seeds said."""
        places = [self.seeds.index(seed) for seed in seeds]

        def rows(answers: Mapping[str, Answers]) -> dict[str, Answers]:
            return {
                name: Answers(a.questions, a.hits[places], a.counts[places])
                for name, a in answers.items()
            }

        return MethodAnswers(tuple(seeds), self.kinds, rows(self.answers), rows(self.unparsed))


def difference(left: MethodAnswers, right: MethodAnswers, measure: str) -> Estimate:
    """`right - left` on the questions and with the seeds that both have."""
    seeds = [seed for seed in left.seeds if seed in right.seeds]
    first, second = (side.for_seeds(seeds).of(measure) for side in (left, right))
    return crossed_difference(first, second) if seeds else crossed([])


def read_answers(folders: Mapping[int, Path]) -> MethodAnswers:
    """The answers of a method.

    Args:
        folders: seed -> directory of its evaluation.

    Raises:
        InputError: seeds were asked different questions, or rows cannot be read.
    """
    by_seed = {seed: _cells(folder) for seed, folder in folders.items()}
    suites = next(iter(by_seed.values()), {})
    for seed, cells in by_seed.items():
        if {k: s.questions.keys() for k, s in cells.items()} != {
            k: s.questions.keys() for k, s in suites.items()
        }:
            raise InputError(
                f"{folders[seed]}: was asked other questions than the seeds before it; remove the "
                "folder and run the study again"
            )
    tables = {
        name: np.array([list(cells[name].questions.values()) for cells in by_seed.values()], float)
        for name in suites
    }  # [S, P, 4]
    questions = {name: tuple(suite.questions) for name, suite in suites.items()}
    return MethodAnswers(
        tuple(by_seed),
        {name: suite.kind for name, suite in suites.items()},
        {n: Answers(questions[n], table[..., 0], table[..., 1]) for n, table in tables.items()},
        {n: Answers(questions[n], table[..., 2], table[..., 3]) for n, table in tables.items()},
    )


def _cells(folder: Path) -> dict[str, SuiteCells]:
    file = folder / "evaluation/model/rows.jsonl"
    if not file.is_file():
        raise InputError(f"{folder}: no finished evaluation there; run the study again")
    status = file.stat()
    return _read_cells(file, status.st_mtime_ns, status.st_size)


@cache
def _read_cells(file: Path, *_of_content: int) -> dict[str, SuiteCells]:
    """Suite by suite, questions in the order of their names, so that seeds have equal columns.

    A question is its cluster, else its text: two files may number their rows alike, and two suites
    may ask the same prompt.
    """
    cells: dict[str, dict[str, list[float]]] = {}
    kinds: dict[str, str] = {}
    for row in read_scored_rows(file):
        suite, question = row["suite"], row.get("cluster") or row["prompt"]
        kinds[suite] = row["kind"]
        cell = cells.setdefault(suite, {}).setdefault(question, [0.0, 0.0, 0.0, 0.0])
        hit = outcome(row)
        cell[0] += hit is True
        cell[1] += hit is not None or row["kind"] == REASONING
        cell[2] += hit is None
        cell[3] += 1
    return {
        suite: SuiteCells(kinds[suite], {q: tuple(questions[q]) for q in sorted(questions)})
        for suite, questions in cells.items()
    }
