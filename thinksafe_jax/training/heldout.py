"""The loss on rows that training never sees: what `training.heldout_rows` asks for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import LoraConfig, ModelConfig
from thinksafe_jax.training.batches import Batches
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.mesh import Placement
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
    params: Tree,
    model_cfg: ModelConfig,
    config: TrainingConfig,
    lora: LoraConfig | None,
    examples: Sequence[Example],
    placement: Placement | None = None,
) -> Callable[[int, Tree], Mapping[str, float]]:
    """The `evaluate` hook of `train`: the objective on `examples`, per target, without dropout.

    Args:
        params: the base model, where training has it.
        examples: the rows held out; those over `max_length` are left out, as in training.
    """
    usable = [example for example in examples if len(example) <= config.max_length]
    batches = Batches(
        usable,
        config.batch_size,
        config.micro_batch_size,
        model_cfg.hidden_size,
        0,
        ways=1 if placement is None else placement.num_shards,
        weighting=config.weighting,
    )
    sums_of = make_heldout(model_cfg, config, lora, placement)
    frozen = None if lora is None else params

    def evaluate(step: int, trainable: Tree) -> Mapping[str, float]:
        del step
        loss = weight = 0.0
        for number in range(batches.steps_per_epoch):
            batch = batches[number].batch
            fed = batch if placement is None else placement.feed(batch)
            sums = sums_of(trainable, frozen, fed)
            loss, weight = loss + float(sums.loss), weight + float(sums.weight)
        return {"heldout_loss": loss / weight}

    return evaluate
