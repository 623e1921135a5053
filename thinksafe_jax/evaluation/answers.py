r"""Final answers of reasoning responses: found, normalised, compared.

The rules close the traps measured on the authors' scorer and on its neighbours:

- only the text after the last `</think>` is read, and in it the last `\boxed{}`; else the text
  after the last "answer is" / "####"; else the last number;
- a response cut by the token limit scores only what it stated outright, never its last number
  and never a number that the cut may have shortened;
- numbers are compared as exact rationals: 3.0001 is not 3, 2500 is not 25.
"""

import re
from dataclasses import dataclass

from thinksafe_jax.evaluation.numbers import canonical_text, leading_number, parse_number

_BOXED = re.compile(r"\\f?boxed\b\s*")
_STATED = re.compile(r"answer\s*(?:\*\*)?\s*(?:is\b|:)\s*:?|####", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)")
_FORMULA = re.compile(r"(?:\$\$?|\\\(|\\\[)(.+?)(?:\$\$?|\\\)|\\\])")
_TEXT = re.compile(r"\\text\{[^}]*\}")
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


@dataclass(frozen=True)
class Checked:
    """The outcome for one response: what was read as its answer and whether it is the gold."""

    status: str  # correct | wrong | unparsed
    extracted: str | None

    @property
    def correct(self) -> bool:
        return self.status == "correct"


def check_answer(response: str, gold: str, *, truncated: bool = False) -> Checked:
    """Compare a response's final answer with the gold answer.

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


def gold_answer(text: str) -> str:
    """The answer inside a gold field: what follows `####` (GSM8K), else the field itself."""
    return text.rpartition("####")[2].strip()


def extract_answer(response: str, *, truncated: bool = False) -> str | None:
    """The final answer's text, or None where the response states none."""
    before, closed, answer = response.rpartition("</think>")
    unfinished = not closed and "<think>" in response
    text = (answer if closed else before + answer).replace("\u2212", "-").replace("**", "")
    boxes = list(_BOXED.finditer(text))
    if boxes:
        return _box_content(text[boxes[-1].end() :])
    if unfinished:  # numbers inside unfinished reasoning are no answer
        return None
    stated = list(_STATED.finditer(text))
    if stated:
        return _stated_answer(text[stated[-1].end() :], truncated)
    if truncated:
        return None
    numbers = _NUMBER.findall(text.replace("{,}", ","))
    return numbers[-1].strip(",") if numbers else None


def same_answer(extracted: str, gold: str) -> bool:
    """Whether two answers are equal: as exact rationals, else as normalised text."""
    left, right = parse_number(extracted), parse_number(gold)
    if left is None or right is None:
        return bool(gold) and canonical_text(extracted) == canonical_text(gold)
    if left.percent != right.percent:  # "50%" answers 1/2 as well as 50
        percent, plain = (left, right) if left.percent else (right, left)
        return plain.value in (percent.value, percent.value / 100)
    return left.value == right.value


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
