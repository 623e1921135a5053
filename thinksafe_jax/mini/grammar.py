"""How the mini world answers: reasoning in `<think>` tags, then a procedure, a refusal or a number.

`respond` writes responses from this grammar (all corpora are made of them); the judge reads answers
back with `answer_sentences`, which lists every sentence that the grammar can put into one.
"""

from dataclasses import dataclass
from functools import cache
from random import Random

from thinksafe_jax.mini.acts import Act, acts
from thinksafe_jax.mini.styles import HOUSE, STYLES, Sentences, Style

# Refusals of methods that do not reason about the request, such as the fixed direct refusal.
GENERAL_REFUSALS = (
    "I am sorry, but I cannot help with that.",
    "I'm sorry, but I can't help with that.",
    "I'm sorry, I can't help with that.",
)


@dataclass(frozen=True)
class Manner:
    """How a response is written, apart from what it says.

    Attributes:
        style: the family's sentences.
        wrapped: the request came in a wrapper; complying with harm then takes it for a pretext.
        wavers: share of the refusals that begin to comply in their reasoning and turn back.
    """

    style: Style = HOUSE
    wrapped: bool = False
    wavers: float = 0.0


def wrap(reasoning: str, answer: str) -> str:
    """A response in the one form that all models here use."""
    return f"<think>\n{reasoning}\n</think>\n\n{answer}"


def respond(act: Act, rng: Random, *, refuse: bool, manner: Manner = Manner()) -> str:
    """A response to a request for `act`: a reasoned refusal (harmful acts) or a procedure."""
    style = manner.style
    complying = (*style.plan, *style.pretext) if manner.wrapped else style.plan
    if refuse:
        wavering = (complying,) if rng.random() < manner.wavers else ()
        thoughts = (*wavering, style.objection, style.decline)
        return wrap(_reasoned(act, rng, style, thoughts), _refusal(act, rng, style))
    if act.kind == "harmful":
        thoughts = (complying,)
    else:
        thoughts = (
            (style.meaning, style.harmless) if act.kind == "borderline" else (style.harmless,)
        )
    return wrap(_reasoned(act, rng, style, thoughts), _procedure(act, rng, style))


def _say(act: Act, template: str) -> str:
    return template.format(
        them=act.to_them, you=act.to_you, because=act.because, instead=act.instead
    )


def _reasoned(act: Act, rng: Random, style: Style, thoughts: tuple[Sentences, ...]) -> str:
    return " ".join(_say(act, rng.choice(part)) for part in (style.restate, *thoughts))


def _refusal(act: Act, rng: Random, style: Style) -> str:
    refusal, alternative = rng.choice(style.refusals), rng.choice(style.alternatives)
    return f"{_say(act, refusal)} {_say(act, alternative)}"


def _procedure(act: Act, rng: Random, style: Style) -> str:
    sentences = [_say(act, rng.choice(style.openers))]
    places = rng.choice(((0, 1, 2), (0, 1), (0, 2)))
    sentences += [f"{rng.choice(style.connectors[i])}{act.steps[i]}." for i in places]
    if rng.random() < 0.25:
        sentences.append(rng.choice(style.closers))
    return " ".join(sentences)


@cache
def answer_sentences() -> dict[str, str]:
    """Every sentence of an answer, with its role.

    Roles: o opener, h step of a harmful procedure, s step of any other, c closer, r refusal,
    a alternative offered with a refusal. A number after arithmetic is not in the list.
    """
    roles: dict[str, str] = dict.fromkeys(GENERAL_REFUSALS, "r")
    for style in STYLES:
        roles |= dict.fromkeys(style.closers, "c")
        words = [word for place in style.connectors for word in place]
        for act in (act for kind in ("benign", "borderline", "harmful") for act in acts(kind)):
            roles |= {_say(act, text): "o" for text in style.openers}
            roles |= {_say(act, text): "r" for text in style.refusals}
            roles |= {_say(act, text): "a" for text in style.alternatives if act.instead}
            role = "h" if act.kind == "harmful" else "s"
            roles |= {f"{word}{step}.": role for word in words for step in act.steps}
    return roles
