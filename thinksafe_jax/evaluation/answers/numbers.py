r"""Numbers as people and LaTeX write them, read as exact rationals.

`70{,}000`, `\$18.90`, `USD 18`, `1,00,000`, `1\frac27`, `137 \frac{1}{2}`, `50\%`,
`1.8 \times 10^3`, `15\mbox{ cm}^2`, `5 million` and `90^\circ` are numbers; `2k`, `7\pi`, `52_8`,
`2 3` and `(3, 4)` are not, and are compared as text.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from thinksafe_jax.evaluation.answers.typography import plain

LONGEST = 200  # characters; longer texts are compared as text, so nothing can blow up

_UNIT_COMMAND = re.compile(  # what a number follows behind it is no unit: "2 \text{ and } 3"
    r"(?<=[0-9}])\s*\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}(?:\^\{?[0-9]\}?)?(?!\s*[-0-9\\])"
)
_UNIT_WORDS = re.compile(r"(?<=[0-9%}])\s+[A-Za-z]{2,}(?:[\s/]+[A-Za-z]+)*\s*\.?$")
# words that count, as "%" does
_SCALES = {"percent": Fraction(1, 100), "dozen": Fraction(12)} | {
    word: Fraction(10**power)
    for word, power in (
        ("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)
    )
}  # fmt: skip
SCALE_WORD = rf"(?:{'|'.join(_SCALES)})s?\b"
_SCALE = re.compile(rf"(?<=[0-9}}])\s*({SCALE_WORD})", re.IGNORECASE)
_TEXT_COMMAND = re.compile(
    r"\\(?:text|mbox|mathrm|textrm|textbf|textit|textsf|texttt|mathbf|mathsf|mathit|mathtt|"
    r"boldsymbol|bm|emph|underline)\s*\{([^{}]*)\}"
)
# a currency by its code; signs and codes before the number are gone by then (typography.plain)
_CURRENCY_AFTER = re.compile(r"(?<=[0-9])\s*(?:USD|CAD|AUD|EUR|GBP|JPY|CNY|RMB|INR|CHF|Rs)\.?$")
_BLANK = re.compile(r"(?<!\\)\\[,;: ]|~")
_GROUP_SPACE = re.compile(r"(?<=\d) (?=\d{3}(?![\d/]))")  # 10 000
_SCIENTIFIC = re.compile(
    r"(-?[0-9]+(?:\.[0-9]+)?)(?:(?:\\times|\\cdot|\u00d7|x|\*)10\^\{?(-?[0-9]{1,2})\}?|[eE]([-+]?[0-9]{1,2}))"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°")
_SPACING = re.compile(  # but for that between two numbers
    r"(?<!\\)\\[!,;: ]|~|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\\(|\\\)"
    r"|(?<![0-9\s])\s+|\s+(?![0-9\s])"
)
_SHORT_FRACTION = re.compile(r"\\frac\s*(\{[^{}]*\}|[0-9])\s*(\{[^{}]*\}|[0-9])")
_VARIABLE = re.compile(r"^\\?[A-Za-z](?:\\in|=)")
_DECIMAL = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
)
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)(?:
        (?P<whole>[0-9]*)\\frac\{{(?P<top>-?[0-9]+)\}}\{{(?P<bottom>-?[0-9]+)\}}
        |(?P<over>[0-9]+)/(?P<under>[0-9]+)
        |(?P<decimal>{_DECIMAL})
    )(?P<percent>\\?%)?\.?""",
    re.VERBOSE,
)
_MIXED = re.compile(r"^(-?)([0-9]+)\s+([0-9]+)/([0-9]+)$")
_LEADING = re.compile(
    rf"-?(?:[0-9]*\s*\\[dt]?frac\s*(?:\{{[^{{}}]*\}}|[0-9])\s*(?:\{{[^{{}}]*\}}|[0-9])"
    rf"|[0-9]+\s*/\s*[0-9]+|{_DECIMAL})(?:\s*\\?%|\s+(?i:{SCALE_WORD}))?"
)


@dataclass(frozen=True)
class Number:
    """A number as it is written, and what its sign or word multiplies it by.

    50% has the value 50 and the scale 1/100, "5 million" the value 5 and the scale 1,000,000.
    """

    value: Fraction
    scale: Fraction = Fraction(1)


def canonical_text(text: str) -> str:
    """Answer text with everything removed that does not change its meaning.

    LaTeX spacing and sizing, `\\text{}` wrappers, degree signs, a leading `x=`, the parentheses of
    a lone letter or number and the case of plain words go; the rest must match exactly.
    """
    text = plain(text).replace("{,}", ",").replace("$", "")
    text = _unwrapped(_UNIT_COMMAND.sub("", text))
    text = _SPACING.sub("", _DEGREES.sub("", re.sub(r"\\[dt]frac", r"\\frac", text)))
    text = _SHORT_FRACTION.sub(
        lambda m: rf"\frac{{{m[1].strip('{}')}}}{{{m[2].strip('{}')}}}", text
    )
    text = re.sub(r"([_^])\{([^{}])\}", r"\1\2", text)
    text = _VARIABLE.sub("", text.strip("*").rstrip("."))
    if re.fullmatch(r"\((?:[A-Za-z]|-?[0-9.]+)\)", text):
        text = text[1:-1]
    return text.casefold() if text.isalpha() else text


def parse_number(text: str) -> Number | None:
    """The number that the whole text states, units aside; None where it is not one number."""
    if len(text) > LONGEST:
        return None
    text = _BLANK.sub(" ", plain(text).replace("\\!", "")).strip(" $*")
    named = _SCALE.search(_unwrapped(text))
    scale = _SCALES[named[1].lower().rstrip("s")] if named else Fraction(1)
    text = _unwrapped(_UNIT_COMMAND.sub("", text)).strip()
    text = _GROUP_SPACE.sub("", _UNIT_WORDS.sub("", _CURRENCY_AFTER.sub("", text)))
    if mixed := _MIXED.match(text):
        sign, whole, top, bottom = mixed.groups()
        if int(bottom) == 0:
            return None
        return _number(sign, Fraction(int(whole)) + _ratio(top, bottom), scale)
    text = canonical_text(text)
    if scientific := _SCIENTIFIC.fullmatch(text):
        factor, power, exponent = scientific.groups()
        return Number(Fraction(factor) * Fraction(10) ** int(power or exponent), scale)
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    part = match.groupdict()
    if part["decimal"]:
        value = Fraction(part["decimal"].replace(",", ""))
    else:
        top, bottom = part["top"] or part["over"], part["bottom"] or part["under"]
        if int(bottom) == 0:
            return None
        value = int(part["whole"] or 0) + _ratio(top, bottom)
    return _number(part["sign"], value, _SCALES["percent"] if part["percent"] else scale)


def leading_number(text: str) -> str | None:
    """The first number in a clause, as written: "5 million a day and 3 more" gives "5 million"."""
    match = _LEADING.search(text.replace("{,}", ",").replace("\\!", ""))
    return match.group().strip() if match else None


def _unwrapped(text: str) -> str:
    r"""Text without `\text{}`, `\boldsymbol{}` and the like, or braces around all of it."""
    before = None
    while before != text:
        before, text = text, _TEXT_COMMAND.sub(r"\1", text)
        if text.startswith("{") and text.endswith("}") and "{" not in text[1:-1]:
            text = text[1:-1]
    return text


def _ratio(top: str, bottom: str) -> Fraction:
    return Fraction(int(top), int(bottom))


def _number(sign: str, value: Fraction, scale: Fraction) -> Number:
    return Number(-value if sign == "-" else value, scale)
