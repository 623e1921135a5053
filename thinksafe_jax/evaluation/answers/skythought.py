r"""The authors' reasoning scorer (SkyThought), reproduced for the `skythought_compat` column.

It is lenient and strict in odd places, all kept on purpose: the last `boxed` of the WHOLE text
counts, reasoning included; 100 x and x / 100 are x; tolerance is 1e-4; `(1,2)` is `[1,2]`;
`10,080` is a list of two numbers; the last number of a truncated text counts; in GPQA the last A-D
standing alone wins, even as the article "a".

Two things are left out: number words ("twenty") and sympy's `parse_expr`, which evaluates what the
model wrote as Python.
"""

import re
from collections.abc import Callable
from math import isclose

Symbolic = Callable[[str, str], bool]

_LETTER = re.compile(r"\b(A|B|C|D)\b")
_NUMBER = re.compile(r"-?\d*\.?\d+")
_GSM8K_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_GSM8K_GOLD = re.compile(r"#### (-?[0-9.,]+)")
# applied in this order; each line is one habit of the original
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\n", ""),
        (r"\.+$", ""),
        (r"\\!", ""),
        (r"\\(begin|end)\{array\}(\{.*?\})?", r"\\\1{pmatrix}"),
        (r"bmatrix", "pmatrix"),
        (r"[td]frac", "frac"),
        (r"\\(n|l|g)eq", r"\\\1e"),
        (r"\\left|\\right", ""),
        (r"\\([{}])", r"\1"),
        (r"(cm|inches)\}\^2", r"\1}"),
        (r"(?<=.)\\text\{.*?\}$", ""),
        (r"\^\{\\circ\}|\^\\circ", ""),
        (r"\\?\$|\\\(|\\\)", ""),
        (r"\\text\{(.*?)\}", r"\1"),
        (r"[xyz](=|\\in|\\to)", ""),
        (r"\\?%", ""),
        (r"([ {])\.", r"\g<1>0."),
        (r"infinity|(?<!\\)\binf\b", r"\\infty"),
        (r"and", ""),
        (r"\\mathbf", ""),
        (r"\\mbox\{.*?\}", ""),
        (r"(\d+)\.0*([^\d]|$)", r"\1\2"),
        (r"^\.", "0."),
        (r"^.{0,2}=(?!.*=)", ""),
        (r"\\sqrt(\w+)", r"\\sqrt{\1}"),
        (r" ", ""),
        (r"\\frac(?=[^{])(.)([^{])", r"\\frac{\1}{\2}"),
        (r"\\frac(?=[^{])(.)\{", r"\\frac{\1}{"),
        (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
    )
)


def skythought_correct(response: str, gold: str, style: str, symbolic: Symbolic) -> bool:
    """The authors' verdict on a whole response.

    Args:
        gold: the gold answer; for GSM8K the worked solution ending in `#### 18` will do.
        style: math | gsm8k | choice.
        symbolic: whether two LaTeX texts are equal up to simplification; asked last.
    """
    if style == "choice":
        letters = _LETTER.findall(response.upper())
        return bool(letters) and letters[-1] == gold.strip()
    if style == "gsm8k":
        numbers = _GSM8K_NUMBER.findall(re.sub(r"[,$]", "", extracted(response)))
        stated = _GSM8K_GOLD.search(gold)
        wanted = (stated.group(1) if stated else gold).strip().replace(",", "")
        return bool(numbers) and numbers[-1].strip() == wanted
    return _equal(_stripped(extracted(response)), _stripped(gold), symbolic)


def extracted(text: str) -> str:
    """What the original takes for the answer: box, stated, else the last number."""
    if "boxed" in text:
        answer = _box(text.rpartition("boxed")[2])
    elif "he answer is" in text:
        answer = text.rpartition("he answer is")[2].strip()
    elif "final answer is" in text:
        answer = text.rpartition("final answer is")[2].strip()
    else:
        numbers = _NUMBER.findall(text.replace(",", ""))
        answer = numbers[-1] if numbers else ""
    answer = re.sub(r"\n\s*", "", answer).removeprefix(":").removesuffix(".").removesuffix("/")
    return _stripped(answer)


def _box(tail: str) -> str:
    """Content of the braces; an unclosed box runs to the end of the text."""
    if not tail.startswith("{"):
        return tail.partition("$")[0].strip()
    depth = 0
    for place, char in enumerate(tail):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return tail[1:place]
    return tail[1:]


def _stripped(text: str) -> str:
    text = text.strip()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if re.fullmatch(r"(-?\d+,)+-?\d+", text):  # a list of integers is sorted: 10,080 is 10,80
        text = ",".join(map(str, sorted(map(int, text.split(",")))))
    return text


def _equal(answer: str, gold: str, symbolic: Symbolic) -> bool:
    if answer.lower() == gold.lower():
        return True
    left, right = _digits(answer), _digits(gold)
    if left is not None and right is not None:
        return any(isclose(left, x, rel_tol=1e-4) for x in (right / 100, right, right * 100))
    if not answer:
        return False
    bare_left, bare_right = (re.sub(r"[{}()]", "", _unbracketed(x)) for x in (answer, gold))
    if bare_left.lower() == bare_right.lower():
        return True
    if _parts_equal(answer, gold, symbolic):
        return True
    for side, other in ((answer, gold), (gold, answer)):  # k = 5 is 5
        name, equals, value = side.partition("=")
        if equals and "=" not in value + other and len(name.strip()) <= 2:
            pair = (value, gold) if side is answer else (answer, value)
            return _equal(*pair, symbolic)
    return "{,}" not in answer + gold and symbolic(answer, gold)


def _digits(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _unbracketed(text: str) -> str:
    return text.strip("[]()") if re.fullmatch(r"\[.*\]|\(.*\)", text) else text


def _parts_equal(answer: str, gold: str, symbolic: Symbolic) -> bool:
    """[a, b] and (c, d), entry by entry, whichever brackets they wear; matrices likewise."""
    matrix = r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}"
    inner = [re.fullmatch(matrix, text) for text in (answer, gold)]
    if inner[0] and inner[1]:
        rows = [re.split(r"\\\\|&", match.group(1)) for match in inner if match]
    elif all(re.fullmatch(r"[(\[].+[)\]]", text) for text in (answer, gold)):
        rows = [text[1:-1].split(",") for text in (answer, gold)]
    else:
        return False
    return len(rows[0]) == len(rows[1]) and all(
        _equal(left.strip(), right.strip(), symbolic) for left, right in zip(*rows, strict=True)
    )
