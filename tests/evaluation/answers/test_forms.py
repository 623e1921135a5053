"""The tables of `forms.py`: every form is read as a careful reader reads it.

Beside it stands what the authors' scorer and Math-Verify make of the same texts; both are measured
here, so that the comparison in the documentation cannot go stale.
"""

import time
from fractions import Fraction

import pytest

from tests.evaluation.answers.forms import CHOICES, NO_NUMBER, NUMBERS
from thinksafe_jax.evaluation.answers.choices import extract_choice
from thinksafe_jax.evaluation.answers.equality_worker import verify
from thinksafe_jax.evaluation.answers.score import Answer, exact_outcome
from thinksafe_jax.evaluation.answers.skythought import skythought_correct


def wrong_value(value: str) -> str:
    return str(Fraction(value) + 1)


@pytest.mark.parametrize(("text", "value"), NUMBERS)
@pytest.mark.parametrize("style", ["math", "gsm8k"])
def test_a_number_is_read_in_every_form(text, value, style):
    assert exact_outcome(Answer(text, value, style)).status == "correct"
    assert exact_outcome(Answer(f"<think>7</think>{text}", value, style)).status == "correct"
    assert exact_outcome(Answer(text, wrong_value(value), style)).status in ("wrong", "open")


@pytest.mark.parametrize("text", NO_NUMBER)
def test_a_text_that_states_no_number_is_unparsed(text):
    assert exact_outcome(Answer(text, "18")).status == "unparsed"


@pytest.mark.parametrize(("text", "letter"), CHOICES)
def test_a_choice_is_read_in_every_form_and_from_no_other_sentence(text, letter):
    assert extract_choice(text) == letter
    if letter:
        assert exact_outcome(Answer(text, f"({letter})", "choice")).status == "correct"


def test_the_tables_are_long_and_every_form_stands_once():
    for table in (NUMBERS, CHOICES):
        assert len(table) >= 150
        assert len({text for text, _ in table}) == len(table)


def test_the_authors_scorer_reads_fewer_of_them():
    """Without its algebra, which decides none of these: all are plain numbers and letters."""

    def symbolic(answer: str, gold: str) -> bool:
        return False

    numbers = sum(skythought_correct(text, value, "math", symbolic) for text, value in NUMBERS)
    letters = sum(
        skythought_correct(text, letter or "", "choice", symbolic) for text, letter in CHOICES
    )
    print(f"authors: {numbers} of {len(NUMBERS)} numbers, {letters} of {len(CHOICES)} choices")
    assert numbers < len(NUMBERS)
    assert letters < len(CHOICES)


def test_math_verify_reads_fewer_of_them():
    """As its documentation has it: parse the whole text, compare with the gold."""
    pytest.importorskip("math_verify", reason="math-verify is an extra")
    from math_verify import parse
    from math_verify import verify as equal

    right = 0
    for text, value in NUMBERS:
        gold = parse(f"${value}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        answer = parse(text, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        right += bool(equal(gold, answer, timeout_seconds=None))
    print(f"Math-Verify: {right} of {len(NUMBERS)} numbers")
    assert verify("18", "18")
    assert right < len(NUMBERS)


@pytest.mark.parametrize(
    "bomb",
    [
        "the answer is clear ",
        "(A) ",
        "A",
        "answer: ",
        "option ",
        "B) 3 is ",
        "$\\$",
        "{",
        "\\text{",
        "– ",
    ],
)
def test_long_texts_are_read_at_once(bomb):
    start = time.perf_counter()
    for text in (bomb * 10_000, r"\boxed{" + bomb * 10_000 + "}", "the answer is " + bomb * 10_000):
        extract_choice(text)
        exact_outcome(Answer(text, "18"))
    assert time.perf_counter() - start < 5
