"""The prompts of the mini world; train, validation and held-out share neither prompt nor wording.

What is chosen (a rate, a setting) is chosen by validation; what is reported is held-out.
"""

from functools import cache
from random import Random

from thinksafe_jax.errors import InputError, did_you_mean, quoted
from thinksafe_jax.mini import arithmetic
from thinksafe_jax.mini.acts import Act, acts
from thinksafe_jax.mini.arithmetic import Task, TwoSteps
from thinksafe_jax.mini.wording import ARITHMETIC_FRAMES, FRAMES, MULTISTEP_FRAMES, WRAPPERS

WORLD_SEED = 7  # a constant of the world: prompt ids are stable
_EVALUATED = ("harmful", "adversarial", "borderline", "adversarial-benign")
SIZES = {
    "train": {
        "harmful": 400,
        "adversarial": 100,
        "benign": 240,
        "borderline": 240,
        "adversarial-benign": 100,
        "arithmetic": 240,
    },
    "validation": dict.fromkeys((*_EVALUATED, "arithmetic", "multistep"), 150),
    "heldout": {
        "harmful": 250,
        "adversarial": 200,
        "borderline": 250,
        "adversarial-benign": 200,
        "arithmetic": 250,
        "multistep": 200,
    },
}
# the kinds that the splits to train on are mixed of
MIXED = {
    "train-harmful": ("harmful", "adversarial"),
    "train-benign": ("benign", "borderline", "adversarial-benign", "arithmetic"),
}
SPLITS = (
    *MIXED,
    *(f"{part}-{kind}" for part in ("validation", "heldout") for kind in SIZES[part]),
)
# the acts that the prompts of a kind ask for
_ACTS = {
    "harmful": ("harmful",),
    "adversarial": ("harmful",),
    "borderline": ("borderline",),
    "benign": ("benign",),
    "adversarial-benign": ("borderline", "benign"),
}


@cache
def _act_prompts(part: str, kind: str) -> tuple[tuple[str, Act], ...]:
    """The chosen (prompt, act) pairs; acts that are new to held-out never enter another split."""
    wordings = WRAPPERS if kind.startswith("adversarial") else FRAMES
    pairs = [
        (frame.format(act=act.text), act)
        for acts_kind in _ACTS[kind]
        for act in acts(acts_kind)
        for frame in wordings[part]
        if part == "heldout" or not act.is_new
    ]
    return tuple(Random(f"{WORLD_SEED}:{part}:{kind}").sample(pairs, SIZES[part][kind]))


@cache
def _arithmetic_prompts(part: str, kind: str) -> tuple[tuple[str, str], ...]:
    """The chosen (prompt, answer) pairs.

    No one-step task of a part, and no first step of two, is asked first in another part. A second
    step may be any task, as a first result leaves it. Results of two steps stay within two digits:
    of such tasks the student does nine in ten, so that a loss shows; where a result passes 99, as
    87 + 45 - 19, its own corpus leaves it failing two in five.
    """
    rng = Random(f"{WORLD_SEED}:{part}:{kind}")
    chosen: dict[str, str] = {}
    while len(chosen) < SIZES[part][kind]:
        if kind == "arithmetic":
            prompt, task = arithmetic_prompt(rng, part, part)
        else:
            prompt, two_steps = multistep_prompt(rng, part, part)
            if not arithmetic.within_two_digits(*two_steps):
                continue
            task = arithmetic.second_step(*two_steps)
        chosen[prompt] = str(arithmetic.result(*task))
    return tuple(chosen.items())


def arithmetic_prompt(rng: Random, wording: str, part: str) -> tuple[str, Task]:
    """A random prompt in the wording of one part about a task of another, or the same."""
    while True:
        a, b, sign = arithmetic.draw(rng)
        if arithmetic.part_of(a, b, sign) == part:
            plus, minus = ARITHMETIC_FRAMES[wording]
            frame = rng.choice(plus if sign == "+" else minus)
            return frame.format(a=a, b=b), (a, b, sign)


def multistep_prompt(rng: Random, wording: str, part: str) -> tuple[str, TwoSteps]:
    """As `arithmetic_prompt`, about a task of two steps."""
    while True:
        a, b, sign, c = arithmetic.draw_two_steps(rng)
        if arithmetic.part_of(a, b, sign) == part:
            plus, minus = MULTISTEP_FRAMES[wording]
            frame = rng.choice(plus if sign == "+" else minus)
            return frame.format(a=a, b=b, c=c), (a, b, sign, c)


def _rows(part: str, kind: str) -> list[dict]:
    label = "harmful" if kind in ("harmful", "adversarial") else "benign"
    rows: list[dict] = []
    if kind in ("arithmetic", "multistep"):
        for prompt, answer in _arithmetic_prompts(part, kind):
            rows.append({"prompt": prompt, "label": label, "kind": kind, "answer": answer})
    else:
        for prompt, _ in _act_prompts(part, kind):
            rows.append({"prompt": prompt, "label": label, "kind": kind})
    return [{"id": f"{part}-{kind}-{i:04d}", **row} for i, row in enumerate(rows)]


def prompts(split: str) -> list[dict]:
    """The prompts of one split, always the same ones in the same order.

    Args:
        split: a name of `SPLITS`, with or without "mini:" before it. Those of train mix several
            kinds, so that any first part of them is a fair mixture; `where: {kind: harmful}` in a
            recipe's source takes one kind. Prompts of the kind `adversarial` are in a wrapper: a
            story, a role, research; `adversarial-benign` ones too, about something harmless.

    Returns:
        Rows {id, prompt, label (harmful | benign), kind (harmful | adversarial | benign |
        borderline | adversarial-benign | arithmetic | multistep)}; arithmetic and multistep rows
        have an `answer` too.

    Raises:
        InputError: there is no such split.
    """
    name = split.removeprefix("mini:")
    if name not in SPLITS:
        raise InputError(
            f"no mini split {quoted(name)}{did_you_mean(name, SPLITS)}; there are: "
            f"{', '.join(SPLITS)}"
        )
    if name not in MIXED:
        part, _, kind = name.partition("-")
        return _rows(part, kind)
    rows = [row for kind in MIXED[name] for row in _rows("train", kind)]
    Random(f"{WORLD_SEED}:mix").shuffle(rows)
    return rows


@cache
def act_of_prompt() -> dict[str, Act]:
    """Every wording of every request, with the act that it asks for."""
    frames = [f for wordings in (FRAMES, WRAPPERS) for part in wordings.values() for f in part]
    return {
        frame.format(act=act.text): act
        for kind in ("harmful", "borderline", "benign")
        for act in acts(kind)
        for frame in frames
    }


@cache
def split_prompts() -> frozenset[str]:
    """Every prompt of every split: what the models' own corpora leave out."""
    return frozenset(row["prompt"] for split in SPLITS for row in prompts(split))
