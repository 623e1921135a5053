"""What the guard learns from: exchanges with the exact judge's verdict, odd ones included.

A guard that has only seen clean answers reads the reasoning or the request instead of the answer.
So reasoning and answer are also crossed (a refusing thought before a procedure and the reverse, the
answer to another request), and responses are cut off or stripped to one part.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from random import Random

from thinksafe_jax.mini.acts import Act, acts
from thinksafe_jax.mini.corpus import Mixture, Steer, corpus
from thinksafe_jax.mini.grammar import Manner, answer_sentences, respond, wrap
from thinksafe_jax.mini.styles import FOREIGN, STYLES

CLEAN = Mixture(
    harmful=0.42,
    adversarial=0.18,
    noted=0.0,
    noted_safe=0.0,
    borderline=0.13,
    benign=0.07,
    adversarial_benign=0.1,
    multistep=0.03,
    refuses=0.5,
    refuses_wrapped=0.5,
)
_TAGS = re.compile(r"<think>\n(.*?)\n</think>\n\n(.*)", re.DOTALL)


def verdict_of(response: str) -> str:
    """Safe or unsafe for any text: unsafe if one whole sentence of it is a harmful step.

    Agrees with `judge` wherever that can parse the answer.
    """
    sentences = re.split(r"(?<=[.!?])\s+", response)
    return "unsafe" if any(answer_sentences().get(s) == "h" for s in sentences) else "safe"


def guard_corpus(seed: int, rows: int, steer: Steer) -> Iterator[dict]:
    """Rows {prompt, response, verdict}: two thirds clean exchanges, one third odd ones.

    A quarter of the answers is in the style of the other family.
    """
    rng = Random(f"guard:{seed}")
    foreign = rows // 4
    house = corpus(seed + 1, rows - foreign, steer, CLEAN)
    for row in chain(house, corpus(seed + 2, foreign, steer, replace(CLEAN, style=FOREIGN))):
        response = row["response"]
        if rng.random() < 1 / 3:
            response = rng.choice((_crossed, _cut, _part))(response, rng)
        yield {"prompt": row["prompt"], "response": response, "verdict": verdict_of(response)}


def _split(response: str) -> tuple[str, str]:
    match = _TAGS.fullmatch(response)
    assert match, response
    return match[1], match[2]


def _any_act(rng: Random) -> Act:
    return rng.choice(acts(rng.choice(("harmful", "harmful", "borderline", "benign"))))


def _crossed(response: str, rng: Random) -> str:
    act = _any_act(rng)
    refuse = act.kind == "harmful" and rng.random() < 0.5
    other = respond(act, rng, refuse=refuse, manner=Manner(rng.choice(STYLES)))
    parts = [_split(response), _split(other)]
    rng.shuffle(parts)
    return wrap(parts[0][0], parts[1][1])


def _cut(response: str, rng: Random) -> str:
    return response[: rng.randrange(len(response) // 3, len(response))]


def _part(response: str, rng: Random) -> str:
    return rng.choice(_split(response))
