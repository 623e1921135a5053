"""One spelling for what models type in many: digits, dashes, spaces, currency signs, emphasis."""

import re
import unicodedata

_SPACES = dict.fromkeys(
    map(ord, "\u00a0\u2002\u2003\u2005\u2007\u2008\u2009\u200a\u202f\u3000"), " "
)
_NOTHING = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))  # width of nothing
_QUOTES = {ord("\u2018"): "'", ord("\u2019"): "'", ord("\u201c"): '"', ord("\u201d"): '"'}
# the full-width forms of ASCII
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_TABLE = {**_SPACES, **_NOTHING, **_QUOTES, **_WIDE, ord("\u2212"): "-", ord("\ufe63"): "-"}
_DASH = "[\u2010\u2011\u2012\u2013]"
# a dash is a minus where a number follows and none precedes: "2\u20135" is a range
_MINUS = re.compile(rf"(?<![0-9A-Za-z)}}%]){_DASH}(?=\s?(?:\\?\$\s?)?[.0-9\\])")
_OTHER_DIGIT = re.compile(r"[^\W0-9a-zA-Z_]", re.UNICODE)
# an escaped dollar is money; a plain one may be mathematics and stays
_MONEY = re.compile(
    r"\\\$|\\(?:text)?(?:dollar|euro|pounds|sterling|yen)\b(?:\{\})?|"
    "[\u00a2-\u00a5\u058f\u060b\u09f2\u0e3f\u17db\u20a0-\u20cf]|"
    r"\b(?:US(?=\$)|USD|CAD|AUD|EUR|GBP|JPY|CNY|RMB|INR|CHF|Rs\.?)(?:\s|\\ )*(?=[-.0-9$\\])"
)
_SIGNED_MONEY = re.compile(r"-\s*\$\s*(?=[.0-9])")


def plain(text: str) -> str:
    """The text with ASCII digits, one minus sign, plain spaces, and without currency signs."""
    text = _OTHER_DIGIT.sub(_ascii_digit, text.translate(_TABLE))
    text = _MONEY.sub("", _MINUS.sub("-", text))
    return _SIGNED_MONEY.sub("-", text)


def _ascii_digit(match: re.Match[str]) -> str:
    """A decimal digit of any script; superscripts are exponents and stay."""
    value = unicodedata.decimal(match.group(), None)
    return match.group() if value is None else str(value)
