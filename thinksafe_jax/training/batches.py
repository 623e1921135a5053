"""The input pipeline: which rows a step sees, and how they lie in its arrays.

An optimiser step holds exactly `batch_size` rows (the last of an epoch may hold fewer), dealt so
that all steps hold about as many tokens. They are packed into sequences of one length, with segment
ids so that no row sees another and positions that restart, and the sequences are dealt to equal
forward passes:

    tokens [passes, sequences, length]     row 3 row 3 row 3 row 7 row 7  pad
    segments                                 1     1     1     2     2     0
    positions                                0     1     2     0     1     0

The arrays of every step have one shape, so a run compiles once (rows of very uneven length: up to
three shapes); a step says how many of its passes are in use, and unused ones are not computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import grain
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.packing import Layout, balanced_steps, best_fit, choose_layouts

Array = Any  # numpy on the host, jax inside the step


class Batch(NamedTuple):
    """Arrays of one optimiser step, all `[P, S, T]` but `passes`.

    `targets[..., t]` is the token after t in the same row, `weights` its share in the loss: 0.0
    where it is no training target. `keep_near` marks the rows whose loss is the KL.
    """

    tokens: Array
    positions: Array
    segments: Array
    targets: Array
    weights: Array
    keep_near: Array
    passes: Array  # i32 scalar: forward passes in use


@dataclass(frozen=True)
class Step:
    """One optimiser step's input."""

    batch: Batch
    row_ids: tuple[str, ...]
    tokens: int  # tokens of its rows
    capacity: int  # tokens that its passes compute, padding included


class Batches:
    """Steps by number: random access, so a resumed run needs the step number alone.

    The order depends only on the seed and the epoch: never on the machine or on what came before.

    Args:
        examples: the training rows.
        batch_size: rows of an optimiser step.
        micro_batch_size: bounds the memory of a forward pass to that of so many longest rows.
        hidden_size: of the model, to weigh attention when the layout is chosen.
        seed: of the order.
        ways: devices that the sequences of a pass are spread over.
        weighting: of the targets, see `target_weights`.

    Raises:
        InputError: no rows, or a row without a single training target.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        micro_batch_size: int,
        hidden_size: int,
        seed: int,
        ways: int = 1,
        weighting: str = "tokens",
    ):
        if not examples:
            raise InputError("nothing to train on: the dataset has no usable rows")
        for example in examples:
            if not example.loss_mask[1:].any():
                raise InputError(f"row {example.id!r} has no token to train on")
        self._examples, self._batch_size, self._weighting = examples, batch_size, weighting
        self._seed = seed % 2**32
        self._lengths = np.array([len(example) for example in examples])
        self._order = grain.MapDataset.source(range(len(examples))).shuffle(seed=self._seed)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
        steps = [self._lengths[list(self.rows(i))].tolist() for i in range(self.steps_per_epoch)]
        tokens = micro_batch_size * int(self._lengths.max())
        self.layouts = choose_layouts(steps, batch_size, tokens, hidden_size, ways)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._examples) // self._batch_size)

    def rows(self, step: int) -> tuple[int, ...]:
        """Indices of the examples of step `step`, counted over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch[0]:
            self._epoch = (epoch, self._deal(epoch))
        return tuple(int(row) for row in self._epoch[1][index])

    def _deal(self, epoch: int) -> list[np.ndarray]:
        size = len(self._examples)
        order = np.array([self._order[i] for i in range(epoch * size, (epoch + 1) * size)])
        rng = np.random.default_rng([self._seed, epoch])
        return [order[i] for i in balanced_steps(self._lengths[order], self._batch_size, rng)]

    def __getitem__(self, step: int) -> Step:
        examples = [self._examples[i] for i in self.rows(step)]
        sizes = [len(example) for example in examples]
        layout = min(
            (layout for layout in self.layouts if layout.holds(sizes)), key=lambda x: x.cost(sizes)
        )
        batch = pack(examples, layout, self._weighting)
        return Step(
            batch=batch,
            row_ids=tuple(example.id for example in examples),
            tokens=sum(sizes),
            capacity=int(batch.passes) * layout.pass_tokens,
        )


def target_weights(example: Example, weighting: str) -> np.ndarray:
    """What each token of a row counts for as a target; the loss is divided by the step's sum.

    "tokens": each target 1, so the loss is the mean over all targets of the step. "authors": the
    targets of a row share 1, as the authors' KL trainer weighs rows at its micro-batch of one row
    (`kl_trainer.py`; paper.md D29). Its further factor, the number of accumulation steps (D28), is
    left out: it is a slip, and changes only where the gradient is clipped.
    """
    mask = example.loss_mask[1:].astype(np.float32)
    return mask if weighting == "tokens" else mask / mask.sum()


def pack(examples: Sequence[Example], layout: Layout, weighting: str = "tokens") -> Batch:
    """The arrays of one step; the rows must fit the layout."""
    bins = best_fit([len(example) for example in examples], layout.length)
    shape = (layout.passes * layout.sequences, layout.length)
    tokens, positions, segments, targets = (np.zeros(shape, np.int32) for _ in range(4))
    weights, keep_near = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for row, members in enumerate(bins):
        start = 0
        for segment, index in enumerate(members, start=1):
            ids = examples[index].token_ids
            end = start + len(ids)
            tokens[row, start:end] = ids
            positions[row, start:end] = np.arange(len(ids))
            segments[row, start:end] = segment
            targets[row, start : end - 1] = ids[1:]
            weights[row, start : end - 1] = target_weights(examples[index], weighting)
            keep_near[row, start:end] = examples[index].keep_near
            start = end
    deal = (layout.passes, layout.sequences, layout.length)
    used = np.int32(ceil(len(bins) / layout.sequences))
    return Batch(
        tokens.reshape(deal),
        positions.reshape(deal),
        segments.reshape(deal),
        targets.reshape(deal),
        weights.reshape(deal),
        keep_near.reshape(deal),
        passes=used,
    )
