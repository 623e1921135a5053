"""Responses to verdicts: extraction, exact comparison, Math-Verify for what is left.

`score` takes all rows at once, so that the comparing processes work side by side and equal pairs
are compared once.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.evaluation.answers.choices import extract_choice
from thinksafe_jax.evaluation.answers.equality import Equality, Pair
from thinksafe_jax.evaluation.answers.exact import exactly_equal
from thinksafe_jax.evaluation.answers.extract import extract_answer, gold_answer
from thinksafe_jax.evaluation.answers.skythought import skythought_correct

STYLES = ("math", "gsm8k", "choice")


@dataclass(frozen=True)
class Checked:
    """The outcome for one response: what was read as its answer and whether it is the gold."""

    status: str  # correct | wrong | unparsed | timeout
    extracted: str | None
    skythought: bool | None = None  # the authors' verdict, where it was asked for

    @property
    def correct(self) -> bool:
        return self.status == "correct"


@dataclass(frozen=True)
class Answer:
    """One response to score.

    Attributes:
        response: the whole response, reasoning included.
        gold: the gold answer; for GSM8K the worked solution ending in `#### 18` will do.
        style: math | gsm8k | choice.
        truncated: the response was cut by the token limit.
    """

    response: str
    gold: str
    style: str = "math"
    truncated: bool = False


def score(answers: Sequence[Answer], pool: Equality, *, compat: bool = True) -> list[Checked]:
    """The verdict on each response.

    Statuses: correct; wrong; unparsed (no answer can be read, or the cut may have shortened it);
    timeout (comparing did not end within the pool's limit; counts as wrong).

    Args:
        compat: fill the `skythought` column as well.

    Raises:
        ConfigError: an unknown style.
        EnvironmentFault: Math-Verify is needed and not installed.
    """
    if unknown := {a.style for a in answers} - set(STYLES):
        raise ConfigError(f"answer style {', '.join(unknown)}: choose from {', '.join(STYLES)}")
    checked = [exact_outcome(answer) for answer in answers]
    open_ = [n for n, outcome in enumerate(checked) if outcome.status == "open"]
    pairs = [Pair(checked[n].extracted or "", gold_answer(answers[n].gold)) for n in open_]
    for n, equal in zip(open_, pool.compare(pairs), strict=True):
        status = "timeout" if equal is None else "correct" if equal else "wrong"
        checked[n] = replace(checked[n], status=status)
    if not compat:
        return checked
    column = _skythought(answers, pool)
    return [replace(outcome, skythought=sky) for outcome, sky in zip(checked, column, strict=True)]


def exact_outcome(answer: Answer) -> Checked:
    """The verdict by exact rules alone; its status is `open` where algebra must decide."""
    if answer.style == "choice":
        letter = extract_choice(answer.response)
        right = letter == answer.gold.strip().strip("()").upper()
        return Checked("unparsed" if letter is None else "correct" if right else "wrong", letter)
    extracted = extract_answer(answer.response, truncated=answer.truncated)
    if extracted is None:
        return Checked("unparsed", None)
    equal = exactly_equal(extracted, gold_answer(answer.gold))
    return Checked({True: "correct", False: "wrong", None: "open"}[equal], extracted)


def _skythought(answers: Sequence[Answer], pool: Equality) -> list[bool]:
    def symbolic(answer: str, gold: str) -> bool:
        return pool.compare([Pair(answer, gold, "symbolic")])[0] is True

    def correct(answer: Answer) -> bool:
        return skythought_correct(answer.response, answer.gold, answer.style, symbolic)

    with ThreadPoolExecutor(pool.workers) as threads:
        return list(threads.map(correct, answers))


def as_row(checked: Checked) -> dict[str, Any]:
    """The columns that a scored row gains."""
    return {
        "correct": checked.correct,
        "status": checked.status,
        "extracted": checked.extracted,
        "skythought_correct": checked.skythought,
    }
