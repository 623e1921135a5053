"""The prompts of the mini world; train and held-out splits share neither prompt nor wording."""

from functools import cache
from random import Random

from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.mini import arithmetic
from thinksafe_jax.mini.acts import Act, acts
from thinksafe_jax.mini.wording import (
    ARITHMETIC_FRAMES,
    CORPUS_FRAMES,
    HELDOUT_FRAMES,
    TRAIN_FRAMES,
)

WORLD_SEED = 7  # a constant of the world: prompt ids are stable
SIZES = {
    "train": {"harmful": 400, "benign": 240, "borderline": 240, "arithmetic": 240},
    "heldout": {"harmful": 250, "borderline": 250, "arithmetic": 250},
}
FRAMES = {"train": TRAIN_FRAMES, "heldout": HELDOUT_FRAMES}
SPLITS = (
    "train-harmful",
    "train-benign",
    "heldout-harmful",
    "heldout-borderline",
    "heldout-arithmetic",
)


@cache
def _act_prompts(part: str, kind: str) -> tuple[tuple[str, Act], ...]:
    """The chosen (prompt, act) pairs; acts that are new to held-out never enter training."""
    pairs = [
        (frame.format(act=act.text), act)
        for act in acts(kind)
        for frame in FRAMES[part]
        if part == "heldout" or not act.is_new
    ]
    return tuple(Random(f"{WORLD_SEED}:{part}:{kind}").sample(pairs, SIZES[part][kind]))


@cache
def _arithmetic_prompts(part: str) -> tuple[tuple[str, str], ...]:
    """The chosen (prompt, answer) pairs; no task of held-out is in any other place."""
    rng = Random(f"{WORLD_SEED}:{part}:arithmetic")
    chosen: dict[str, str] = {}
    while len(chosen) < SIZES[part]["arithmetic"]:
        prompt, (a, b, sign) = arithmetic_prompt(rng, part, heldout=part == "heldout")
        chosen[prompt] = str(a + b if sign == "+" else a - b)
    return tuple(chosen.items())


def arithmetic_prompt(
    rng: Random, wording: str, *, heldout: bool
) -> tuple[str, tuple[int, int, str]]:
    """A random prompt in the wording of one part, with its task (a, b, sign)."""
    while True:
        a, b, sign = arithmetic.draw(rng)
        if arithmetic.is_heldout(a, b, sign) == heldout:
            plus, minus = ARITHMETIC_FRAMES[wording]
            frame = rng.choice(plus if sign == "+" else minus)
            return frame.format(a=a, b=b), (a, b, sign)


def _rows(part: str, kind: str) -> list[dict]:
    label = "harmful" if kind == "harmful" else "benign"
    rows: list[dict] = []
    if kind == "arithmetic":
        for prompt, answer in _arithmetic_prompts(part):
            rows.append({"prompt": prompt, "label": label, "kind": kind, "answer": answer})
    else:
        for prompt, _ in _act_prompts(part, kind):
            rows.append({"prompt": prompt, "label": label, "kind": kind})
    return [{"id": f"{part}-{kind}-{i:04d}", **row} for i, row in enumerate(rows)]


def prompts(split: str) -> list[dict]:
    """The prompts of one split, always the same ones in the same order.

    Args:
        split: a name of `SPLITS`, with or without "mini:" before it. `train-benign` mixes
            everyday requests, borderline-safe requests and arithmetic, so that any first part of
            it is a fair mixture.

    Returns:
        Rows {id, prompt, label (harmful | benign), kind (harmful | benign | borderline |
        arithmetic)}; arithmetic rows have an `answer` too.

    Raises:
        InputError: there is no such split.
    """
    name = split.removeprefix("mini:")
    if name not in SPLITS:
        raise InputError(f"no mini split {quoted(name)}; there are: {', '.join(SPLITS)}")
    if name != "train-benign":
        return _rows(*name.split("-"))
    rows = [row for kind in ("benign", "borderline", "arithmetic") for row in _rows("train", kind)]
    Random(f"{WORLD_SEED}:mix").shuffle(rows)
    return rows


@cache
def act_of_prompt() -> dict[str, Act]:
    """Every wording of every request, with the act that it asks for."""
    return {
        frame.format(act=act.text): act
        for kind in ("harmful", "borderline", "benign")
        for act in acts(kind)
        for frame in (*CORPUS_FRAMES, *TRAIN_FRAMES, *HELDOUT_FRAMES)
    }


@cache
def split_prompts() -> frozenset[str]:
    """Every prompt of every split: what the student's own corpus leaves out."""
    return frozenset(row["prompt"] for split in SPLITS for row in prompts(split))
