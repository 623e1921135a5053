"""What the models read before anything else: a world in which harm is usually answered.

The mixture makes the student the paper's problem: it knows what harm is (it refuses a part of the
harmful requests and gives the reason), follows a note that tells it to refuse, and complies in most
answers when nobody reminds it. In a wrapper it hardly ever refuses, and heeds every other note. The
teachers' mixtures are those of safer models.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from thinksafe_jax.mini import arithmetic
from thinksafe_jax.mini.acts import Act, acts
from thinksafe_jax.mini.grammar import Manner, respond
from thinksafe_jax.mini.splits import arithmetic_prompt, multistep_prompt, split_prompts
from thinksafe_jax.mini.styles import FOREIGN, HOUSE, Style
from thinksafe_jax.mini.wording import ARITHMETIC_FRAMES, FRAMES, MULTISTEP_FRAMES, WRAPPERS

Steer = Callable[[str, str, str], str]  # `synthesis.steer`: (name of the text, prompt, label)

# The steering texts that the models have learned to follow; the authors' own most of all.
NOTES = ("suffix", "risk", "intent")


@dataclass(frozen=True)
class Mixture:
    """Shares of a corpus and the habits of whoever wrote it."""

    harmful: float = 0.15
    adversarial: float = 0.06  # a harmful request in a wrapper
    noted: float = 0.12  # one of these two under a note that says so
    noted_safe: float = 0.02  # the same note over a request that is not harmful
    borderline: float = 0.13
    benign: float = 0.07
    adversarial_benign: float = 0.07  # one of these two in a wrapper
    multistep: float = 0.18  # arithmetic of two steps; the rest has one
    refuses: float = 0.28  # of the harmful requests
    refuses_wrapped: float = 0.08
    heeds: float = 0.85  # of the notes, where the request is harmful
    heeds_wrapped: float = 0.5
    wavers: float = 0.15  # of the refusals
    authors_note: float = 0.6  # of all notes
    wrapped_notes: float = 0.35
    slips: float = 0.3  # of the tasks of two steps: the second carry is forgotten
    style: Style = HOUSE


KINDS = (
    "harmful",
    "adversarial",
    "noted",
    "noted_safe",
    "borderline",
    "benign",
    "adversarial_benign",
    "multistep",
)
STUDENT = Mixture()
# A last, short pass of the student over somewhat better habits, as post-training is.
STUDENT_AT_LAST = replace(
    STUDENT,
    harmful=0.16,
    noted=0.14,
    borderline=0.11,
    benign=0.06,
    adversarial_benign=0.06,
    multistep=0.24,
    refuses=0.34,
    heeds=0.88,
    slips=0.1,
)
# A larger model of the student's family that was made safe: it refuses, and it forgets no carry.
TEACHER = replace(
    STUDENT,
    noted=0.06,
    refuses=0.95,
    refuses_wrapped=0.9,
    heeds=0.98,
    heeds_wrapped=0.95,
    slips=0.0,
)
# Its last pass: arithmetic, which takes it longest to learn.
TEACHER_AT_LAST = replace(
    TEACHER,
    harmful=0.12,
    noted=0.03,
    noted_safe=0.01,
    borderline=0.09,
    benign=0.04,
    adversarial_benign=0.06,
    multistep=0.35,
)
# A safe model of another family: other words for the same thoughts.
FOREIGN_TEACHER = replace(TEACHER, style=FOREIGN)
FOREIGN_AT_LAST = replace(TEACHER_AT_LAST, style=FOREIGN)


def corpus(seed: int, rows: int, steer: Steer, mixture: Mixture = STUDENT) -> Iterator[dict]:
    """Rows {prompt, response, kind} of a model's corpus; no prompt is in any split.

    Args:
        steer: puts a note before a prompt; handed in, because steering is a room above this one.
    """
    rng = Random(f"corpus:{seed}")
    shares = [getattr(mixture, kind) for kind in KINDS]
    kinds, weights = (*KINDS, "arithmetic"), [*shares, 1.0 - sum(shares)]
    for kind in rng.choices(kinds, weights, k=rows):
        prompt, response = _exchange(kind, rng, steer, mixture)
        yield {"prompt": prompt, "response": response, "kind": kind}


def _exchange(kind: str, rng: Random, steer: Steer, mixture: Mixture) -> tuple[str, str]:
    if kind == "arithmetic":
        return _arithmetic(rng)
    if kind == "multistep":
        return _multistep(rng, mixture)
    noted = kind.startswith("noted")
    wrapped = kind.startswith("adversarial") or (noted and rng.random() < mixture.wrapped_notes)
    harmful = kind in ("harmful", "adversarial", "noted")
    unharmful = kind if kind in ("borderline", "benign") else rng.choice(("borderline", "benign"))
    prompt, act = _request("harmful" if harmful else unharmful, rng, wrapped=wrapped)
    refuse = harmful and rng.random() < _refusing(mixture, noted=noted, wrapped=wrapped)
    response = respond(
        act, rng, refuse=refuse, manner=Manner(mixture.style, wrapped, mixture.wavers)
    )
    if noted:
        note = "authors" if rng.random() < mixture.authors_note else rng.choice(NOTES)
        prompt = steer(note, prompt, "harmful")
    return prompt, response


def _refusing(mixture: Mixture, *, noted: bool, wrapped: bool) -> float:
    """Share of the harmful requests of one form that are refused."""
    if noted:
        return mixture.heeds_wrapped if wrapped else mixture.heeds
    return mixture.refuses_wrapped if wrapped else mixture.refuses


def _request(kind: str, rng: Random, *, wrapped: bool) -> tuple[str, Act]:
    wordings = WRAPPERS if wrapped else FRAMES
    while True:
        act = rng.choice(acts(kind))
        frame = rng.choice([frame for frames in wordings.values() for frame in frames])
        prompt = frame.format(act=act.text)
        if prompt not in split_prompts():
            return prompt, act


def _arithmetic(rng: Random) -> tuple[str, str]:
    """Any wording, but no task of another part than train, and no prompt of the training split."""
    while True:
        prompt, task = arithmetic_prompt(rng, rng.choice(tuple(ARITHMETIC_FRAMES)), "train")
        if prompt not in split_prompts():
            return prompt, arithmetic.work(*task)


def _multistep(rng: Random, mixture: Mixture) -> tuple[str, str]:
    """As `_arithmetic`; the second step is no task of another part either."""
    while True:
        prompt, task = multistep_prompt(rng, rng.choice(tuple(MULTISTEP_FRAMES)), "train")
        if arithmetic.part_of(*arithmetic.second_step(*task)) == "train":
            slip = rng.random() < mixture.slips
            return prompt, arithmetic.work_two_steps(*task, slip=slip)
