r"""Final answers of reasoning responses: found, normalised, compared.

The rules close the traps measured on the authors' scorer and on its neighbours:

- only the text after the last `</think>` is read, and in it the last `\boxed{}`; else the text
  after the last "answer is" / "####"; else the last number;
- a response cut by the token limit scores only what it stated outright, never its last number
  and never a number that the cut may have shortened;
- numbers are compared as exact rationals: 3.0001 is not 3, 2500 is not 25; what exact rules cannot
  decide is Math-Verify's to say (scorer.py);
- a choice is the letter in the last box, else the one stated; never the last word that is a letter.
"""

import re
from dataclasses import dataclass

from thinksafe_jax.evaluation.answers.numbers import canonical_text, leading_number, parse_number

_BOXED = re.compile(r"\\f?boxed\b\s*")
_STATED = re.compile(r"answer\s*(?:\*\*)?\s*(?:is\b|:)\s*:?|####", re.IGNORECASE)
# digits glued to a word are part of a name ("-sepehr2010" under an AIME solution)
_NUMBER = re.compile(r"-?(?<![A-Za-z0-9_.,])(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)")
_FORMULA = re.compile(r"(?:\$\$?|\\\(|\\\[)(.+?)(?:\$\$?|\\\)|\\\])")
_TEXT = re.compile(r"\\text\{[^}]*\}")
_TEXT_BOX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


_LETTER = re.compile(r"\(?([A-J])\)?(?![A-Za-z0-9^_{+*/=-])")
_WORD = re.compile(r"[A-Za-z]{2,}")

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


def check_answer(response: str, gold: str, *, truncated: bool = False) -> Checked:
    """Compare a response's final answer with the gold answer by exact rules alone.

    Args:
        response: the whole response, reasoning included.
        gold: the gold answer; for GSM8K the worked solution ending in `#### 18` will do.
        truncated: the response was cut by the token limit (finish_reason "length").
    """
    extracted = extract_answer(response, truncated=truncated)
    if extracted is None:
        return Checked("unparsed", None)
    status = "correct" if same_answer(extracted, gold_answer(gold)) else "wrong"
    return Checked(status, extracted)


def extract_choice(response: str) -> str | None:
    """The letter of a multiple-choice answer: in the last box, else after the last "answer is"."""
    text = _answer_text(response)
    if text is None:
        return None
    boxes = list(_BOXED.finditer(text))
    if boxes:
        found = _box_content(text[boxes[-1].end() :])
    else:
        stated = list(_STATED.finditer(text))
        found = text[stated[-1].end() :] if stated else None
    letter = _LETTER.match(_TEXT_BOX.sub(r"\1", found or "").strip(" \n*$:"))
    return letter.group(1) if letter else None


def gold_answer(text: str) -> str:
    """The answer inside a gold field: what follows `####` (GSM8K), else the field itself."""
    return text.rpartition("####")[2].strip()


def extract_answer(response: str, *, truncated: bool = False) -> str | None:
    """The final answer's text, or None where the response states none."""
    text = _answer_text(response)
    if text is None:
        return None
    boxes = list(_BOXED.finditer(text))
    if boxes:
        return _box_content(text[boxes[-1].end() :])
    stated = list(_STATED.finditer(text))
    if stated:
        return _stated_answer(text[stated[-1].end() :], truncated)
    if truncated:
        return None
    numbers = _NUMBER.findall(text.replace("{,}", ","))
    return numbers[-1].strip(",") if numbers else None


def same_answer(extracted: str, gold: str) -> bool:
    """Whether two answers are equal by exact rules: as rationals, else as normalised text."""
    return exactly_equal(extracted, gold) is True


def exactly_equal(extracted: str, gold: str) -> bool | None:
    """True or False where exact rules decide, None where algebra must.

    Numbers are compared as rationals; two that differ are left open unless both are whole (0.333333
    may stand for 1/3). Plain words are compared as text: to algebra, `east` is a product of letters
    and equals `seat`.
    """
    left, right = parse_number(extracted), parse_number(gold)
    if left is None or right is None:
        texts = canonical_text(extracted), canonical_text(gold)
        if not gold or texts[0] == texts[1]:
            return bool(gold)
        return False if any(_WORD.fullmatch(text) for text in texts) else None
    if left.percent != right.percent:  # "50%" answers 1/2 as well as 50
        percent, plain = (left, right) if left.percent else (right, left)
        return plain.value in (percent.value, percent.value / 100)
    if left.value == right.value:
        return True
    whole = left.value.denominator == right.value.denominator == 1
    return False if whole or left.percent else None


def _answer_text(response: str) -> str | None:
    """The text after the last `</think>`; None where reasoning was begun and never ended.

    Numbers and boxes inside unfinished reasoning are no answer.
    """
    before, closed, answer = response.rpartition("</think>")
    if not closed and "<think>" in response:
        return None
    return (answer if closed else before + answer).replace("\u2212", "-").replace("**", "")


def _box_content(text: str) -> str | None:
    """Content of a box whose command was just read; None where its brace never closes."""
    if not text.startswith("{"):
        bare = re.match(r"[^\s$.,]+(?:\.[0-9]+)?", text)  # \boxed 5
        return bare.group() if bare else None
    depth = 0
    for place, char in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\" and text[place - 2] != "\\"
        if char in "{}" and not escaped:
            depth += 1 if char == "{" else -1
        if depth == 0:
            return text[1:place].strip() or None
    return None


def _stated_answer(tail: str, truncated: bool) -> str | None:
    """The answer in the text after "answer is": a formula, the first number, or the clause."""
    answer = _first_statement(tail)
    # nothing follows it: the cut may have shortened it
    cut = truncated and answer is not None and tail.rstrip(" .,$").endswith(answer)
    return None if cut else answer


def _first_statement(tail: str) -> str | None:
    line = next((line.strip() for line in tail.splitlines() if re.search(r"[\w]", line)), "")
    formula = _FORMULA.match(line)
    if formula and not _PLAIN_WORD.search(_TEXT.sub("", formula.group(1))):
        return formula.group(1).strip()
    clause = re.split(r"[,;:.!?](?:\s|$)|\bbecause\b|\bsince\b", line.strip(" $*:"))[0]
    value = clause.rpartition("=")[2]
    return leading_number(value) or value.strip() or None
