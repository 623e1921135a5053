r"""Numbers as people and LaTeX write them, read as exact rationals.

`70{,}000`, `\$18.90`, `USD 18`, `1,00,000`, `1\frac27`, `137 \frac{1}{2}`, `50\%`,
`1.8 \times 10^3`, `15\mbox{ cm}^2` and `90^\circ` are numbers; `2k`, `7\pi`, `52_8` and `(3, 4)`
are not, and are compared as text.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from thinksafe_jax.evaluation.answers.typography import plain

LONGEST = 200  # characters; longer texts are compared as text, so nothing can blow up

_UNIT_COMMAND = re.compile(
    r"(?<=[0-9}])\s*\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}(?:\^\{?[0-9]\}?)?"
)
_UNIT_WORDS = re.compile(r"(?<=[0-9%}])\s+[A-Za-z]{2,}(?:[\s/]+[A-Za-z]+)*\s*\.?$")
_TEXT_COMMAND = re.compile(
    r"\\(?:text|mbox|mathrm|textrm|textbf|textit|textsf|texttt|mathbf|mathsf|mathit|mathtt|"
    r"boldsymbol|bm|emph|underline)\s*\{([^{}]*)\}"
)
# a currency by its code; signs and codes before the number are gone by then (typography.plain)
_CURRENCY_AFTER = re.compile(r"(?<=[0-9])\s*(?:USD|CAD|AUD|EUR|GBP|JPY|CNY|RMB|INR|CHF|Rs)\.?$")
_BLANK = re.compile(r"(?<!\\)\\[,;: ]|~")
_SPACED_GROUPS = re.compile(r"\d{1,3}(?: \d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(
    r"(-?[0-9]+(?:\.[0-9]+)?)(?:(?:\\times|\\cdot|\u00d7|x|\*)10\^\{?(-?[0-9]{1,2})\}?|[eE]([-+]?[0-9]{1,2}))"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°")
_SPACING = re.compile(
    r"(?<!\\)\\[!,;: ]|~|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\\(|\\\)|\s+"
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
    rf"|[0-9]+\s*/\s*[0-9]+|{_DECIMAL})(?:\s*\\?%)?"
)


@dataclass(frozen=True)
class Number:
    """An exact value; a percentage keeps its face value (50% is 50) and says what it is."""

    value: Fraction
    percent: bool = False


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
    text = _unwrapped(_UNIT_COMMAND.sub("", text)).strip()
    text = _UNIT_WORDS.sub("", _CURRENCY_AFTER.sub("", text))
    if _SPACED_GROUPS.fullmatch(text):
        text = text.replace(" ", "")
    if mixed := _MIXED.match(text):
        sign, whole, top, bottom = mixed.groups()
        return _number(sign, Fraction(int(whole)) + _ratio(top, bottom)) if int(bottom) else None
    text = canonical_text(text)
    if scientific := _SCIENTIFIC.fullmatch(text):
        factor, power, exponent = scientific.groups()
        return Number(Fraction(factor) * Fraction(10) ** int(power or exponent))
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
    return _number(part["sign"], value, bool(part["percent"]))


def leading_number(text: str) -> str | None:
    """The first number in a clause, as written: "18 per day and 5 more" gives "18"."""
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


def _number(sign: str, value: Fraction, percent: bool = False) -> Number:
    return Number(-value if sign == "-" else value, percent)
