"""Llama-Guard 3 (1B and 8B): one line with its verdict, one with what is violated.

Source: the chat templates of meta-llama/Llama-Guard-3-8B and -1B, and their model cards:
"safe", or "unsafe" and below it the categories, as "S1,S9".
"""

import re
from collections.abc import Mapping

from thinksafe_jax.guards.guard_format import GuardFormat, Reading, Slot
from thinksafe_jax.guards.template import GuardTemplate, chat_template

_VERDICTS = ("safe", "unsafe")
# S1 to S14 of the model card
_CATEGORIES = (
    "Violent Crimes", "Non-Violent Crimes", "Sex-Related Crimes", "Child Sexual Exploitation",
    "Defamation", "Specialized Advice", "Privacy", "Intellectual Property",
    "Indiscriminate Weapons", "Hate", "Suicide & Self-Harm", "Sexual Content", "Elections",
    "Code Interpreter Abuse",
)  # fmt: skip
_NAME = "(?:" + "|".join(sorted(map(re.escape, _CATEGORIES), key=len, reverse=True)) + r")\b"
# a code or a name, in brackets or behind a bullet too
_ITEM = rf"(?:[-*] )?[(\[]?(?:[SOCsoc]\d{{1,2}}(?:: ?{_NAME})?\.?|{_NAME}\.?)[)\]]?"
_BETWEEN = r"[\s,;/&]+(?:and\s+)?"


def _slots(template: GuardTemplate) -> tuple[Slot, ...]:
    numbers = tuple(re.findall(r"^S(\d+): ", template.segments(2)[0], re.MULTILINE))
    verdict = Slot("verdict", "", _VERDICTS, single=True)
    if len(numbers) < 2:
        return (verdict,)
    after = ("verdict", "unsafe")
    category = Slot("category", "\nS", numbers, optional=True, only_after=after, listing=",S")
    return (verdict, category)


def _read(words: Mapping[str, str]) -> Reading:
    # read from forward passes, the first number stands behind the form's own "S"
    matches = re.finditer(r"([SOC]?)(\d+)|" + _NAME, words.get("category") or "", re.IGNORECASE)
    codes = (
        f"{match[1].upper() or 'S'}{match[2]}" if match[2] else _code(match[0]) for match in matches
    )
    word = words["verdict"]
    return Reading(word, word, None, tuple(dict.fromkeys(codes)))


def _code(name: str) -> str:
    return f"S{[known.lower() for known in _CATEGORIES].index(name.lower()) + 1}"


FORMAT = GuardFormat(
    template=lambda tokenizer, compat: chat_template(tokenizer, suffix="\n\n", double_bos=compat),
    slots=_slots,
    verdicts=_VERDICTS,
    unsafe=frozenset({"unsafe"}),
    guess=lambda exchange: {"verdict": "unsafe"},  # the category is then read in the same pass
    read=_read,
    sign="First line must read 'safe' or 'unsafe'",
    # As the model card shows it, and as servers and fine-tunes write it: other white space, codes
    # of Llama-Guard 1 (O3) and of other taxonomies (C1), the name behind a code or instead of it,
    # lists in other dress.
    # All of these have one reading. "safe" has nothing behind it, and neither word another case.
    pattern=re.compile(
        rf"\s*(?P<verdict>unsafe|safe(?!\s*\S))(?:\s+(?P<category>{_ITEM}(?:{_BETWEEN}{_ITEM})*)[\s,;]*)?\s*"
    ),
)
