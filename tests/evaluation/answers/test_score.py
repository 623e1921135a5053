"""The scorer against a golden table: (text, gold, our verdict, the authors' verdict).

The rows are the measured differences between SkyThought's scorer and Math-Verify; ours must be the
sensible verdict, the compat column the authors'.
"""

import json
import threading
import time

import pytest

from tests.support import shared_asset
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.evaluation.answers.choices import extract_choice
from thinksafe_jax.evaluation.answers.equality import Equality, Pair
from thinksafe_jax.evaluation.answers.score import Answer, score

BOX = r"\boxed{%s}"
RIGHT, WRONG, NONE = "correct", "wrong", "unparsed"

MATH = [
    # (response, gold, ours, skythought)
    (BOX % "20400", "204", WRONG, True),
    (BOX % "2500", "25", WRONG, True),
    (BOX % "0.25", "25", WRONG, True),
    (BOX % "3.0001", "3", WRONG, True),
    (BOX % "3.14159", r"\pi", WRONG, True),
    (BOX % "(1,2)", "[1,2]", WRONG, True),
    (BOX % "[1,2)", "(1,2]", WRONG, True),
    (BOX % "10,080", "10080", RIGHT, False),
    (BOX % "1{,}000", "1000", RIGHT, False),
    (BOX % r"1\frac27", r"\frac{9}{7}", RIGHT, False),
    (BOX % r"50\%", r"\frac{1}{2}", RIGHT, False),
    (r"\boxed{113", "113", NONE, True),
    (r"\boxed{7} and finally the answer is \boxed{113}", "113", RIGHT, True),
    (r"\boxed{113} but let me check. \boxed{115} no: \boxed{113}", "113", RIGHT, True),
    (r"<think>\boxed{113}</think> I gave up.", "113", NONE, True),
    (r"<think>\boxed{7}</think> so \boxed{113}", "113", RIGHT, True),
    (r"<think>\boxed{113} and on", "113", NONE, True),
    (BOX % "x^2+2x+1", "(x+1)^2", RIGHT, True),
    (BOX % r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", RIGHT, True),
    (BOX % "0.333333", r"\frac{1}{3}", RIGHT, True),
    (BOX % "0.33", r"\frac{1}{3}", WRONG, False),
    (BOX % r"\left(3, \frac{\pi}{2}\right)", r"( 3, \frac{\pi}{2} )", RIGHT, True),
    (BOX % "p + q", "p - q", WRONG, False),
    (BOX % r"\text{seat}", r"\text{east}", WRONG, True),  # to algebra, products of letters
    (BOX % "k = 5", "5", RIGHT, True),
]

GSM8K = [
    ("The final answer is 18, because 2+3", "18", RIGHT, False),
    ("The final answer is 3/4", "3/4", RIGHT, False),
    ("The final answer is 5 apples and 3 pears", "5", RIGHT, False),
    ("The final answer is 70{,}000", "70000", RIGHT, False),
    ("The final answer is $70,000", "70000", RIGHT, False),  # a list, sorted: 0,70
    ("The final answer is **18**", "18", RIGHT, True),
    ("The final answer is $18 per day.", "18", RIGHT, True),
    ("The final answer is 18.", "She makes 9 * 2 = 18.\n#### 18", RIGHT, True),
    ("The final answer is 17.", "She makes 9 * 2 = 18.\n#### 18", WRONG, False),
]

CHOICE = [
    (r"\boxed{C}", "C", RIGHT, True),
    (r"\boxed{C}. This is a good answer", "C", RIGHT, False),
    ("\\boxed{C}\n\nHave a nice day!", "C", RIGHT, False),
    (r"\boxed{D} — vitamin C deficiency", "D", RIGHT, False),
    (r"\boxed{\text{B}}", "B", RIGHT, True),
    (r"\boxed{(B)}", "B", RIGHT, True),
    ("The answer is (B).", "B", RIGHT, True),
    ("Answer: A", "B", WRONG, False),
    ("I would say vitamin B", "B", NONE, True),
    (r"<think>\boxed{B}", "B", NONE, True),
]


@pytest.fixture(scope="module")
def pool():
    with Equality(workers=2, limit=5.0) as pool:
        yield pool


@pytest.mark.parametrize(
    ("style", "table"),
    [("math", MATH), ("gsm8k", GSM8K), ("choice", CHOICE)],
    ids=["math", "gsm8k", "choice"],
)
def test_golden_table(style, table, pool):
    checked = score([Answer(text, gold, style) for text, gold, _, _ in table], pool)
    found = [
        (text, gold, c.status, c.skythought)
        for (text, gold, *_), c in zip(table, checked, strict=True)
    ]
    assert found == table


def test_a_truncated_text_scores_by_luck_in_the_compat_column_only(pool):
    text = "truncated thinking ... maybe 113"
    (checked,) = score([Answer(text, "113", truncated=True)], pool)
    assert (checked.status, checked.skythought) == (NONE, True)


@pytest.mark.parametrize("text", [r"\boxed{k}", r"\boxed{Because}", r"\boxed{}", "", "B it is"])
def test_what_is_no_choice_is_not_read_as_one(text):
    assert extract_choice(text) is None


def test_an_unknown_style_is_refused(pool):
    with pytest.raises(ConfigError, match=r"essay.*math, gsm8k, choice"):
        score([Answer("x", "y", "essay")], pool)


# bombs (fault 50)


@pytest.mark.slow
@pytest.mark.parametrize("bomb", ["9^{9^{9^9}}", "(" * 10_000 + "1" + ")" * 10_000])
def test_a_bomb_ends_as_timeout_or_wrong_and_the_pool_survives(bomb):
    with Equality(workers=1, limit=1.5) as pool:
        began = time.monotonic()
        checked = score([Answer(BOX % bomb, "7"), Answer(BOX % "x+1", "1+x")], pool, compat=False)
        assert time.monotonic() - began < 30  # the start of two processes included
        assert checked[0].status in ("timeout", "wrong")
        assert checked[1].correct
    if bomb.startswith("9"):
        assert (checked[0].status, pool.killed) == ("timeout", 1)


def test_scoring_works_in_a_thread(pool):
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(score([Answer(BOX % "2a", "a+a")], pool, compat=False))
    )
    thread.start()
    thread.join()
    assert found[0].correct


def test_equal_pairs_are_compared_once():
    with Equality(workers=1) as pool:
        assert pool.compare([Pair("a+a", "2a")] * 3) == [True] * 3
        assert len(pool._known) == 1


# gold solutions


def _rows(name: str) -> list[dict]:
    lines = shared_asset("data", name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("file", "style", "solution", "count"),
    [
        ("gsm8k_test.jsonl", "gsm8k", "answer", 1319),
        ("math500_test.jsonl", "math", "solution", 500),
        ("aime24.jsonl", "math", "solution", 30),
    ],
)
def test_gold_solutions_are_accepted(file, style, solution, count, pool):
    rows = _rows(file)
    checked = score([Answer(r[solution], r["answer"], style) for r in rows], pool, compat=False)
    assert (len(checked), sum(c.correct for c in checked)) == (count, count)


@pytest.mark.slow
def test_planted_wrong_answers_are_rejected(pool):
    """Every gold answer of MATH-500 offered for the next problem; equal neighbours are right."""
    golds = [row["answer"] for row in _rows("math500_test.jsonl")]
    planted = [(golds[n - 1], gold) for n, gold in enumerate(golds)]
    checked = score([Answer(BOX % wrong, gold) for wrong, gold in planted], pool, compat=False)
    accepted = {pair for pair, c in zip(planted, checked, strict=True) if c.correct}
    assert accepted == {("5", "x=5"), ("3", "3"), ("7", "7")}
    solutions = [row["answer"] for row in _rows("gsm8k_test.jsonl")]
    numbers = [int(text.rpartition("#### ")[2].replace(",", "")) for text in solutions]
    wrong = [
        Answer(f"The final answer is {n + 1}", text, "gsm8k")
        for n, text in zip(numbers, solutions, strict=True)
    ]
    assert not any(c.correct for c in score(wrong, pool, compat=False))
