"""The loss on rows that training never sees: what `training.heldout_rows` asks for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.setup import TrainingSetup
from thinksafe_jax.training.step import make_heldout

Tree = Any


def hold_out(
    examples: Sequence[Example], rows: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """(rows to train on, rows held out); which ones depends on the seed and their number alone.

    Raises:
        InputError: nothing would be left to train on.
    """
    if not rows:
        return list(examples), []
    if rows >= len(examples):
        raise InputError(
            f"training.heldout_rows is {rows}, but there are {len(examples)} rows; hold out fewer"
        )
    chosen = set(np.random.default_rng([seed % 2**32, 1]).permutation(len(examples))[:rows])
    kept = [example for n, example in enumerate(examples) if n not in chosen]
    return kept, [examples[n] for n in sorted(chosen)]


def heldout_loss(
    params: Tree, setup: TrainingSetup, examples: Sequence[Example]
) -> Callable[[int, Tree], Mapping[str, float]]:
    """The `evaluate` hook of `train`: the objective on `examples`, per target, without dropout.

    Args:
        params: the base model, where training has it.
        examples: the rows held out; those over `max_length` are left out, as in training.
    """
    batches = setup.batches(examples, seed=0, epochs=1)
    sums_of = make_heldout(setup)
    frozen = None if setup.lora is None else params

    def evaluate(step: int, trainable: Tree) -> Mapping[str, float]:
        del step
        loss = weight = 0.0
        for item in batches.steps(0):
            batch = item.batch if setup.mesh is None else setup.mesh.feed(item.batch)
            loss += float(sums_of(trainable, frozen, batch).loss)
            weight += float(item.batch.denominator)
        return {"heldout_loss": loss / weight}

    return evaluate
