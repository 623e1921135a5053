"""Final answers: the golden table of measured traps, and real gold solutions."""

import json
import time
from dataclasses import replace

import pytest

from tests.support import shared_asset
from thinksafe_jax.evaluation.answers.exact import exactly_equal
from thinksafe_jax.evaluation.answers.extract import extract_answer
from thinksafe_jax.evaluation.answers.numbers import parse_number
from thinksafe_jax.evaluation.answers.score import Answer, Checked, exact_outcome

BOX = r"\boxed{%s}"


def check_answer(response: str, gold: str, *, truncated: bool = False) -> Checked:
    """The verdict by exact rules; what they leave to algebra counts as wrong here."""
    checked = exact_outcome(Answer(response, gold, truncated=truncated))
    return replace(checked, status="wrong") if checked.status == "open" else checked


# what the authors' scorer or a neighbour's got wrong, and what must come out here
EQUALITY = [
    ("20400", "204", False),  # 100 x is not x
    ("2500", "25", False),
    ("0.25", "25", False),
    ("3.0001", "3", False),  # exact, no tolerance
    ("3.14159", r"\pi", False),
    ("(1,2)", "[1,2]", False),
    ("[1,2)", "(1,2]", False),
    ("10,080", "10080", True),
    (r"10,\!080", "10080", True),
    ("1{,}000", "1000", True),
    (r"1\frac27", r"\frac{9}{7}", True),
    (r"137 \frac{1}{2}", "137.5", True),
    ("1 1/2", "3/2", True),
    (r"50\%", r"\frac12", True),
    ("50%", "50", True),
    ("51%", "50", False),
    (r"\frac{-3}{4}", "-0.75", True),
    (r"\dfrac 34", "0.750", True),
    ("\u22123", "-3", True),  # the Unicode minus sign
    (r"\$18.90", "18.9", True),
    (r"864 \mbox{ inches}^2", "864", True),
    (r"90^\circ", "90", True),
    ("5 cm per hour", "5", True),
    ("025", "25", True),  # AIME pads with zeros
    ("2k", "2", False),  # a factor is not a unit
    ("3R^2", "3", False),
    ("52_8", "52", False),  # a number in base 8
    ("1,-2", "1", False),
    ("1/0", "1/0", True),  # no number, still text
    (r"5 \text{ million}", "5000000", True),
    ("5 million", "5", True),  # asked for millions
    ("5 million", "5000 thousand", True),
    ("5 million", "5000", False),
    ("5 million", "5 thousand", False),
    (r"2 \text{ and } 3", "23", False),  # two numbers are not one
    (r"5 \text{ ft } 6 \text{ in}", "56", False),
    ("2 3", "23", False),
    ("-10 000", "-10000", True),
    ("0.123 456", "0.123456", True),
    ("10:00 a.m.", "10:00 p.m.", False),
    (r"10:00 \text{ a.m.}", r"10:00 \text{ p.m.}", False),
    (r"10 \text{ PM}", "10", True),
    ("x=5", "5", True),
    (r"\text{Evelyn}", "evelyn", True),
    (r"\text{(C)}", "C", True),
    (r"\textbf{(073) }", "073", True),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
    ("", "", False),
]


@pytest.mark.parametrize(("answer", "gold", "equal"), EQUALITY)
def test_equality(answer, gold, equal):
    assert (exactly_equal(answer, gold) is True) is equal


RESPONSES = [
    # (response, truncated, gold, status)
    (r"\boxed{7} and finally the answer is \boxed{113}", False, "113", "correct"),
    (r"\boxed{113} but let me check. \boxed{115} no, \boxed{113}", False, "113", "correct"),
    (r"\boxed{113} wait, it is \boxed{115}", False, "113", "wrong"),
    (r"<think>\boxed{5}</think>\boxed{6}", False, "6", "correct"),
    (r"<think>\boxed{5}</think>so six", False, "5", "unparsed"),  # only the answer part counts
    ("<think>a</think>9<think>b</think>The answer is 8.", False, "8", "correct"),
    (r"unclosed \boxed{113", False, "113", "unparsed"),
    (r"\boxed{113} then \boxed{11", True, "113", "unparsed"),
    (r"\boxed{\frac{1}{2}}", False, "0.5", "correct"),
    (r"\boxed{\{1,2\}}", False, r"\{1,2\}", "correct"),
    (r"\boxed{}", False, "0", "unparsed"),
    (r"\boxed 5.", False, "5", "correct"),
    (r"I put it in \boxed{}. The answer is 18.", False, "18", "correct"),
    (r"The answer in `\boxed` form: 18", False, "18", "correct"),
    (r"\boxed{18}. So much for \boxed.", False, "18", "correct"),
    (r"\boxed{18} and then \boxed", True, "18", "unparsed"),
    # cut by the token limit: nothing is right by luck
    ("truncated thinking ... maybe 113", True, "113", "unparsed"),
    ("<think>so the answer is 113, but let me", True, "113", "unparsed"),
    ("The answer is 18", True, "18", "unparsed"),  # may have been 180
    ("The answer is 18, which", True, "18", "correct"),
    (r"so \boxed{113} holds, and", True, "113", "correct"),
    ("maybe 113", False, "113", "correct"),
    # what follows "answer is"
    ("The final answer is 18, because 2+3", False, "18", "correct"),
    ("The final answer is 3/4", False, "3/4", "correct"),
    ("The final answer is 5 apples and 3 pears", False, "5", "correct"),
    ("The final answer is 70{,}000", False, "70000", "correct"),
    ("The final answer is $70,000", False, "70000", "correct"),
    ("The final answer is **18**", False, "18", "correct"),
    ("The final answer is $18 per day and $5 at night.", False, "18", "correct"),
    ("The final answer is 18.", False, "18", "correct"),
    ("The answer is: 12 * 3 = 36.", False, "36", "correct"),
    ("The answer is\n\n$$\\frac{3}{4}$$", False, "0.75", "correct"),
    ("The answer is $(3, \\frac{\\pi}{2})$.", False, "3", "wrong"),
    (r"The answer is $\begin{pmatrix} -1/3 \\ 2 \end{pmatrix}$.", False, "-1/3", "wrong"),
    (
        r"The answer is $\begin{pmatrix} -1/3 \\ 2 \end{pmatrix}$.",
        False,
        r"\begin{pmatrix}-1/3\\2\end{pmatrix}",
        "correct",
    ),
    ("Answer: C", False, "C", "correct"),
    ("#### 1,234", False, "1234", "correct"),
    ("The answer is 5. No: the answer is 6.", False, "6", "correct"),
    # choices: the letter is the box, not a later word
    (r"\boxed{C}. This is a good answer", False, "C", "correct"),
    (r"\boxed{D} \u2014 vitamin C deficiency", False, "D", "correct"),
    # nothing to read
    ("", False, "0", "unparsed"),
    ("I do not know.", False, "0", "unparsed"),
    ("<think>1 2 3</think>   ", False, "3", "unparsed"),
]


@pytest.mark.parametrize(("response", "truncated", "gold", "status"), RESPONSES)
def test_responses(response, truncated, gold, status):
    assert check_answer(response, gold, truncated=truncated).status == status


def test_extracted_text_is_kept_for_the_reader():
    assert extract_answer(r"so \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert check_answer("The answer is 7.", "8").extracted == "7"


@pytest.mark.parametrize(
    "bomb",
    ["(" * 2000 + "1" + ")" * 2000, "9^{9^{9^9}}", "9" * 100_000, "10^{10^{10}}", "{" * 50_000],
)
def test_bombs_are_compared_as_text_at_once(bomb):
    start = time.perf_counter()
    assert not check_answer(BOX % bomb, "7").correct
    assert not check_answer("the answer is " + bomb, "7").correct
    assert not check_answer(bomb, "7").correct
    assert time.perf_counter() - start < 2


def test_wrong_numbers_are_rejected_exactly():
    """Each numeric gold answer of MATH-500, one too high; the rest is Math-Verify's to compare."""
    lines = shared_asset("data", "math500_test.jsonl").read_text(encoding="utf-8").splitlines()
    golds = [row["answer"] for row in map(json.loads, lines) if parse_number(row["answer"])]
    assert len(golds) == 401
    for gold in golds:
        value = parse_number(gold)
        assert value is not None
        assert not check_answer(BOX % (value.value + 1), gold).correct
