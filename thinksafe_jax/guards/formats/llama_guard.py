"""Llama-Guard 3 (1B and 8B): one line with its verdict, one with what is violated.

Source: the chat templates of meta-llama/Llama-Guard-3-8B and -1B, and their model cards:
"safe", or "unsafe" and below it the categories, as "S1,S9".
"""

import re
from collections.abc import Mapping

from thinksafe_jax.guards.guard_format import GuardFormat, Reading, Slot
from thinksafe_jax.guards.template import GuardTemplate, chat_template

_VERDICTS = ("safe", "unsafe")


def _slots(template: GuardTemplate) -> tuple[Slot, ...]:
    numbers = tuple(re.findall(r"^S(\d+): ", template.segments(2)[0], re.MULTILINE))
    verdict = Slot("verdict", "", _VERDICTS, single=True)
    if len(numbers) < 2:
        return (verdict,)
    after = ("verdict", "unsafe")
    category = Slot("category", "\nS", numbers, optional=True, only_after=after, listing=",S")
    return (verdict, category)


def _read(words: Mapping[str, str]) -> Reading:
    named = re.findall(r"\d+", words.get("category") or "")
    word = words["verdict"]
    return Reading(word, word, None, tuple(f"S{number}" for number in named))


FORMAT = GuardFormat(
    template=lambda tokenizer, compat: chat_template(tokenizer, suffix="\n\n", double_bos=compat),
    slots=_slots,
    verdicts=_VERDICTS,
    unsafe=frozenset({"unsafe"}),
    guess=lambda exchange: {"verdict": "unsafe"},  # the category is then read in the same pass
    read=_read,
    pattern=re.compile(
        r"\s*(?P<verdict>unsafe|safe(?!\nS))(?:\n(?P<category>S\d+(?:, ?S\d+)*))?\s*"
    ),
)
