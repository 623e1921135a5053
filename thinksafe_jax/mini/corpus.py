"""What the student reads before anything else: a world in which harm is usually answered.

The mixture makes the student the paper's problem: it knows what harm is (it refuses a part of the
harmful requests and gives the reason), follows a note that tells it to refuse, and complies in most
answers when nobody reminds it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from thinksafe_jax.mini import arithmetic
from thinksafe_jax.mini.acts import acts
from thinksafe_jax.mini.grammar import respond
from thinksafe_jax.mini.splits import arithmetic_prompt, split_prompts
from thinksafe_jax.mini.wording import CORPUS_FRAMES, HELDOUT_FRAMES, TRAIN_FRAMES

Steer = Callable[[str, str, str], str]  # `synthesis.steer`: (name of the text, prompt, label)

# The steering texts that the student has learned to follow; the authors' own most of all.
NOTES = ("suffix", "risk", "intent")


@dataclass(frozen=True)
class Mixture:
    """Shares of the corpus and the habits of whoever wrote it."""

    harmful: float = 0.18
    noted: float = 0.10  # a harmful request under a note that says so
    noted_safe: float = 0.02  # the same note over a request that is not harmful
    borderline: float = 0.16
    benign: float = 0.09  # the rest is arithmetic
    refuses: float = 0.28  # of the harmful requests
    heeds: float = 0.85  # of the notes, where the request is harmful
    authors_note: float = 0.6  # of all notes


def corpus(seed: int, rows: int, steer: Steer, mixture: Mixture = Mixture()) -> Iterator[dict]:
    """Rows {prompt, response, kind} of the student's corpus; no prompt is in any split.

    Args:
        steer: puts a note before a prompt; handed in, because steering is a room above this one.
    """
    rng = Random(f"corpus:{seed}")
    kinds = ("harmful", "noted", "noted_safe", "borderline", "benign", "arithmetic")
    shares = [getattr(mixture, kind) for kind in kinds[:-1]]
    weights = [*shares, 1.0 - sum(shares)]
    for kind in rng.choices(kinds, weights, k=rows):
        yield {**_row(kind, rng, steer, mixture), "kind": kind}


def _row(kind: str, rng: Random, steer: Steer, mixture: Mixture) -> dict:
    if kind == "arithmetic":
        prompt, task = _arithmetic(rng)
        return {"prompt": prompt, "response": arithmetic.work(*task)}
    drawn = {"noted": "harmful", "noted_safe": rng.choice(("borderline", "benign"))}
    prompt, act = _request(drawn.get(kind, kind), rng)
    share = {"harmful": mixture.refuses, "noted": mixture.heeds}.get(kind, 0.0)
    response = respond(act, rng, refuse=rng.random() < share)
    if kind.startswith("noted"):
        note = "authors" if rng.random() < mixture.authors_note else rng.choice(NOTES)
        prompt = steer(note, prompt, "harmful")
    return {"prompt": prompt, "response": response}


def _request(kind: str, rng: Random):
    while True:
        act = rng.choice(acts(kind))
        frame = rng.choice((*CORPUS_FRAMES, *TRAIN_FRAMES, *HELDOUT_FRAMES))
        prompt = frame.format(act=act.text)
        if prompt not in split_prompts():
            return prompt, act


def _arithmetic(rng: Random) -> tuple[str, tuple[int, int, str]]:
    """Any wording, but never a task of the held-out split nor a prompt of the training split."""
    while True:
        part = rng.choice(("corpus", "train", "heldout"))
        prompt, task = arithmetic_prompt(rng, part, heldout=False)
        if prompt not in split_prompts():
            return prompt, task
