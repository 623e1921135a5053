"""Whether two answers are equal by exact rules: as rationals, else as normalised text."""

import re

from thinksafe_jax.evaluation.answers.numbers import Number, canonical_text, parse_number

_WORD = re.compile(r"[A-Za-z]{2,}")
# of a time of day, behind its number
_HALF_OF_DAY = re.compile(
    r"(?<=[0-9}])[\s~]*(?:\\(?:text|mbox|mathrm)\s*\{\s*)?([ap])\.?\s?m\b", re.I
)


def exactly_equal(extracted: str, gold: str) -> bool | None:
    """True or False where exact rules decide, None where algebra must.

    Numbers are compared as rationals: 3.0001 is not 3, 2500 is not 25. Two that differ are left
    open unless both are whole (0.333333 may stand for 1/3). Plain words are compared as text: to
    algebra, `east` is a product of letters and equals `seat`.
    """
    halves = [m[1].lower() for text in (extracted, gold) if (m := _HALF_OF_DAY.search(text))]
    if halves in (["a", "p"], ["p", "a"]):
        return False
    left, right = parse_number(extracted), parse_number(gold)
    if left is not None and right is not None:
        return _equal_numbers(left, right)
    texts = canonical_text(extracted), canonical_text(gold)
    if not gold or texts[0] == texts[1]:
        return bool(gold)
    return False if any(_WORD.fullmatch(text) for text in texts) else None


def _equal_numbers(left: Number, right: Number) -> bool | None:
    if left.value * left.scale == right.value * right.scale:
        return True
    if left.scale != right.scale:  # "50%" answers 50, too, and "5 million" a question in millions
        return left.value == right.value and 1 in (left.scale, right.scale)
    whole = left.value.denominator == right.value.denominator == 1
    return False if whole or left.scale != 1 else None
