"""What a guard's server answers: the text, and the likeliest tokens at each of its steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thinksafe_jax.errors import quoted


@dataclass(frozen=True)
class Step:
    """One token of an answer, and the likeliest tokens in its place with their probabilities."""

    token: str
    likely: tuple[tuple[str, float], ...]


def read_reply(reply: Any) -> tuple[str, list[Step]]:
    """(text, its steps) of a chat completion or a completion.

    Text that is none is "". Steps are left out, all of them, where one is malformed: what a step
    says is worth nothing when the one before it may be missing.
    """
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError):
        return "", []
    if not isinstance(text, str):
        return "", []
    try:
        return text, _steps(choice["logprobs"])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return text, []


def step_at(steps: Sequence[Step], text: str, place: int) -> Step | None:
    """The step that wrote the character at `place`; None where steps and text do not agree.

    White space is not compared: servers strip it off the text, and decode it away from tokens that
    are decoded alone. What follows the text, as an end-of-sequence token, does no harm.
    """
    if not _dense("".join(step.token for step in steps)).startswith(_dense(text)):
        return None
    before, written = len(_dense(text[:place])), 0
    for step in steps:
        written += len(_dense(step.token))
        if written > before:
            return step
    return None


def _steps(logprobs: Any) -> list[Step]:
    """Steps from either form of log-probabilities; raises for anything else."""
    if "content" in logprobs:  # of a chat completion
        listed = [
            (step["token"], [(top["token"], top["logprob"]) for top in step["top_logprobs"]])
            for step in logprobs["content"]
        ]
    else:
        pairs = zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
        listed = [(token, list(likely.items())) for token, likely in pairs]
    return [
        Step(_string(token), tuple((_string(top), _probability(value)) for top, value in likely))
        for token, likely in listed
    ]


def _string(token: Any) -> str:
    if not isinstance(token, str):
        raise TypeError(f"a token is {quoted(token)}")
    return token


def _probability(logprob: Any) -> float:
    # a little above zero is rounding, and what is no number is not below it
    if isinstance(logprob, bool) or not (math.isfinite(logprob) and logprob <= 1e-3):
        raise ValueError(f"a log-probability is {quoted(logprob)}")
    return math.exp(min(0.0, logprob))


def _dense(text: str) -> str:
    return "".join(text.split())
