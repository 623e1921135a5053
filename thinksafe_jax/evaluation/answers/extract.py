r"""The final answer of a reasoning response: which piece of the text it is.

The rules close the traps measured on the authors' scorer and on its neighbours:

- only the text after the last `</think>` is read, and in it the last `\boxed{}` that holds
  something; else what the last sentence states that gives an answer ("The answer is 18", "#### 18",
  "**Answer:** 18"); else the last number;
- "answer" in other sentences ("let me know if the answer is clear") states nothing;
- a response cut by the token limit scores only what it stated outright, never its last number
  and never a number that the cut may have shortened.
"""

import re
from collections.abc import Iterator

from thinksafe_jax.evaluation.answers.numbers import SCALE_WORD, leading_number, parse_number
from thinksafe_jax.evaluation.answers.typography import plain

# "\b" of an unescaped "\boxed" is a backspace in JSON and Python
_BOX = re.compile(r"(?:\\f?boxed|\\fbox|\x08oxed)\b\s*")
_STATED = re.compile(
    r"\bans(?:wer)?\b\s*(?:\([^()\n]{0,30}\)\s*)?[\"'_`]*\s*(?:"
    r"(?:to (?:the|this) (?:question|problem)\s+)?"
    r"(?:is|was|are|equals|would be|will be|should be|must be|comes (?:out )?to)\b\s*:?"
    r"|:|=|->|\u2192|\s*\n+(?=\s*\S))|####",
    re.IGNORECASE,
)
# before the word "answer": what is done with it, or doubt
_ABOUT = re.compile(
    r"\b(?:get|find|check|verify|compute|calculate|obtain|simplify|express|round|give|write|state|"
    r"enter|submit|if|whether|hope|sure|wonder|why|how|what|where|unless|until|confirm|"
    r"double-check|explain|justify|derive|reach|present|format)\s+"
    r"(?:that\s+)?(?:(?:the|your|my|our|this|an|a|each|every)\s+)?"
    r"(?:(?:final|correct|right|exact|numerical|full|above|given)\s+)*$",
    re.IGNORECASE,
)
# after it: what is said of the answer
_SAID_OF = re.compile(
    r"(?:clear|correct|right|wrong|incorrect|helpful|reasonable|consistent|verified|confirmed|"
    r"unique|indeed|not|in|to|as|found|obtained|given|expected|shown|above|below|boxed|"
    r"provided|already|simply (?:the|a)|rounded|expressed|written|what|whatever|yours?)\b",
    re.IGNORECASE,
)
# digits glued to a word are part of a name ("-sepehr2010" under an AIME solution)
_NUMBER = re.compile(
    r"-?(?<![A-Za-z0-9_.,])(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:\s*/\s*[0-9]+(?![0-9/]))?"
    rf"(?:\s+(?i:{SCALE_WORD}))?"
)
_FORMULA = re.compile(r"(?:\$\$?|\\\(|\\\[)((?:[^$\\]|\\[^()\[\]])+?)(?:\$\$?|\\\)|\\\])")
_NO_WORDS = re.compile(r"\\(?:text|begin|end)\{[^}]*\}")  # what no plain word stands in
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_SPACED_GROUPS = re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d,]|\.\d)")

_LONGEST = 4000  # characters in which a stated answer begins and ends


def gold_answer(text: str) -> str:
    """The answer inside a gold field: what follows `####` (GSM8K), else the field itself."""
    return text.rpartition("####")[2].strip()


def extract_answer(response: str, *, truncated: bool = False) -> str | None:
    """The final answer's text, or None where the response states none."""
    text = answer_text(response)
    if text is None:
        return None
    if (box := last_box(text)) != "":
        return box
    for start in reversed(list(_statements(text))):
        answer = _first_statement(text[start : start + _LONGEST])
        if answer is not None:
            # nothing follows it: the cut may have shortened it
            cut = truncated and text[start:].rstrip(" .,$").endswith(answer)
            return None if cut else answer
    if truncated:
        return None
    numbers = _NUMBER.findall(_SPACED_GROUPS.sub(_joined, text.replace("{,}", ",")))
    return numbers[-1].strip(",") if numbers else None


def answer_text(response: str) -> str | None:
    """The text after the last `</think>`; None where reasoning was begun and never ended.

    Numbers and boxes inside unfinished reasoning are no answer.
    """
    _, closed, answer = response.rpartition("</think>")
    if not closed and "<think>" in response:
        return None
    return plain(answer).replace("**", "")


def last_box(text: str) -> str | None:
    r"""Content of the last box; an empty one, as in "within \boxed{}", is passed over.

    Returns:
        "" where there is none, or all are empty; None where the brace of the last one never closes.
    """
    for box in reversed(list(_BOX.finditer(text))):
        content = _box_content(text[box.end() :])
        if content is None or content:
            return content
    return ""


def _box_content(text: str) -> str | None:
    """Content of a box whose command was just read; None where its brace never closes."""
    if not text.startswith("{"):
        bare = re.match(r"[-+\\\w][^\s$.,]*(?:\.[0-9]+)?", text)  # \boxed 5
        return bare.group() if bare else "" if text else None
    depth = 0
    for place, char in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\" and text[place - 2] != "\\"
        if char in "{}" and not escaped:
            depth += 1 if char == "{" else -1
        if depth == 0:
            return text[1:place].strip()
    return None


def _statements(text: str) -> Iterator[int]:
    """Where the answer begins in each sentence that states one."""
    for match in _STATED.finditer(text):
        before = text[max(0, match.start() - 60) : match.start()].rpartition("\n")[2]
        if match.group() == "####" or not _ABOUT.search(before):
            yield match.end()


def _first_statement(tail: str) -> str | None:
    """The answer in the text after "answer is": a formula, the first number, or the clause."""
    line = next((line.strip() for line in tail.splitlines() if re.search(r"\w", line)), "")
    line = line.lstrip(" :*_`#>\"'")
    formula = _FORMULA.match(line)
    if formula and not _PLAIN_WORD.search(_NO_WORDS.sub("", formula.group(1))):
        value = formula.group(1).rpartition("=")[2]
        return (value if parse_number(value) else formula.group(1)).strip()
    if _SAID_OF.match(line):
        return None
    line = _SPACED_GROUPS.sub(_joined, line)
    clause = re.split(r"[,;:.!?](?:\s|$)|\bbecause\b|\bsince\b", line.strip(" $*:\"'`"))[0]
    value = clause.rpartition("=")[2]
    return leading_number(value) or value.strip(" *_`\"'") or None


def _joined(groups: re.Match[str]) -> str:
    """1 234 567 as 1234567."""
    return groups.group().replace(" ", "")
