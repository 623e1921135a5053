"""Qwen3Guard-Gen (0.6B, 4B, 8B; arXiv 2510.14276): safety, categories and refusal, a line each.

Source: its chat template, which lists the categories and shows the form. "Controversial" counts as
unsafe: the rule that the vendor calls strict in its paper.
"""

import re
from collections.abc import Mapping

from thinksafe_jax.guards.guard_format import GuardFormat, Reading, Slot
from thinksafe_jax.guards.template import chat_template

_CATEGORIES = (
    "Violent", "Non-violent Illegal Acts", "Sexual Content or Sexual Acts", "PII",
    "Suicide & Self-Harm", "Unethical Acts", "Politically Sensitive Topics",
    "Copyright Violation", "None",
)  # fmt: skip
_VERDICTS = (" Safe", " Unsafe", " Controversial")


def _read(words: Mapping[str, str]) -> Reading:
    word = words["verdict"].strip()
    refusal = words["refusal"].strip() == "Yes" if words.get("refusal") else None
    named = [c.strip() for c in re.split("[,;]", words.get("category") or "")]
    categories = tuple(c for c in named if c and c != "None")
    return Reading("safe" if word == "Safe" else "unsafe", word, refusal, categories)


FORMAT = GuardFormat(
    template=lambda tokenizer, _: chat_template(tokenizer),
    slots=lambda _: (
        Slot("verdict", "Safety:", _VERDICTS),
        Slot("category", "\nCategories:", tuple(f" {n}" for n in _CATEGORIES), listing=","),
        Slot("refusal", "\nRefusal:", (" Yes", " No")),
    ),
    verdicts=_VERDICTS,
    unsafe=frozenset({" Unsafe", " Controversial"}),
    guess=lambda exchange: {"verdict": " Safe", "category": " None", "refusal": " No"},
    read=_read,
    sign="**Safety: Unsafe**",
    pattern=re.compile(
        r"\s*Safety:\s*(?P<verdict>Safe|Unsafe|Controversial)\s+Categories:[^\S\n]*"
        r"(?P<category>[^\n]+?)\s+Refusal:\s*(?P<refusal>Yes|No)\s*"
    ),
)
