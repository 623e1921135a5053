"""How a family of guards is asked and how it answers: a template, and a form with blanks.

A guard's answer is a short fixed text in which it chooses words: Llama-Guard's first line, the
three lines of WildGuard and of Qwen3Guard-Gen. Each choice is a `Slot`. Formats are data: who asks
the model (`native` by prefill, `served` by generation) is somebody else's business.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from thinksafe_jax.guards.protocol import Exchange, Guard, Verdict
from thinksafe_jax.guards.template import GuardTemplate
from thinksafe_jax.tokenizer import ChatTokenizer


@dataclass(frozen=True)
class Slot:
    """A blank of the answer: the fixed text before it and the words that may fill it.

    Attributes:
        single: each word must be one token; else its first token stands for it.
        optional: left out where the tokenizer does not tell the words apart by one token; only the
            last slot may be.
        only_after: (slot, word) without which this blank is not part of the answer.
        listing: what stands before each further word, where the guard may write several.
    """

    name: str
    lead: str
    words: tuple[str, ...]
    single: bool = False
    optional: bool = False
    only_after: tuple[str, str] | None = None
    listing: str = ""


@dataclass(frozen=True)
class Reading:
    """What the filled-in form means; `refusal` is None where the form does not say."""

    verdict: str
    word: str  # the guard's own for it
    refusal: bool | None = None
    categories: tuple[str, ...] = ()


def verdict_of(
    guard: Guard,
    exchange: Exchange,
    reading: Reading | None,
    p_unsafe: float | None = None,
    other_mass: float | None = None,
) -> Verdict:
    """The verdict that an answer comes to: unparsed, without P(unsafe), where it has no reading.

    Args:
        p_unsafe, other_mass: as in `Verdict`.
    """
    return Verdict(
        exchange.id,
        reading.verdict if reading else "unparsed",
        p_unsafe if reading else None,
        exchange.scope,
        False,
        guard.name,
        other_mass,
        word=reading.word if reading else "",
        categories=reading.categories if reading else (),
        refusal=reading.refusal if reading else None,
        template=guard.template,
    )


@dataclass(frozen=True)
class GuardFormat:
    """A family of guards.

    Attributes:
        template: (tokenizer, authors_compat) -> the prompt.
        slots: the blanks, for a prompt; the one named "verdict" decides.
        verdicts: the words of the verdict.
        unsafe: those of them that mean unsafe.
        guess: the words that are expected, by slot; a right guess saves a forward pass.
        read: words by slot, as far as the guard filled them in -> what they mean.
        pattern: the whole answer as generated text, with a group named after each slot.
        sign: what the published chat templates of this family say, and of no other; "" of a family
            without one. Another template is no fault, one with another family's sign is.
    """

    template: Callable[[ChatTokenizer, bool], GuardTemplate]
    slots: Callable[[GuardTemplate], tuple[Slot, ...]]
    verdicts: tuple[str, ...]
    unsafe: frozenset[str]
    guess: Callable[[Exchange], Mapping[str, str]]
    read: Callable[[Mapping[str, str]], Reading]
    pattern: re.Pattern[str]
    sign: str = ""
