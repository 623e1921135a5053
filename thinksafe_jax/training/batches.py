"""The input pipeline: which rows a step sees, and how they lie in its arrays.

An optimiser step holds exactly `batch_size` rows (the last of an epoch may hold fewer). They are
packed into sequences of one length, with segment ids so that no row sees another and positions that
restart, and the sequences are dealt to equal forward passes:

    tokens [passes, sequences, length]     row 3 row 3 row 3 row 7 row 7  pad
    segments                                 1     1     1     2     2     0
    positions                                0     1     2     0     1     0

The arrays of every step have one shape, so a run compiles once; a step says how many of its passes
are in use, and unused ones are not computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import grain
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.training.examples import Example

_PASS_OVERHEAD = 96  # what starting one forward pass costs, counted in tokens


Array = Any  # numpy on the host, jax inside the step


class Batch(NamedTuple):
    """Arrays of one optimiser step, all `[P, S, T]` but `passes`.

    `targets[..., t]` is the token after t in the same row, `weights` is 1.0 where it is a training
    target and 0.0 elsewhere.
    """

    tokens: Array
    positions: Array
    segments: Array
    targets: Array
    weights: Array
    passes: Array  # i32 scalar: forward passes in use


@dataclass(frozen=True, order=True)
class Layout:
    """Static shape of a step: `passes` forward passes of `sequences` x `length` tokens, at most."""

    passes: int
    sequences: int
    length: int


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
    ):
        if not examples:
            raise InputError("nothing to train on: the dataset has no usable rows")
        for example in examples:
            if not example.loss_mask[1:].any():
                raise InputError(f"row {example.id!r} has no token to train on")
        self._examples = examples
        source = grain.MapDataset.source(range(len(examples)))
        self._rows = source.shuffle(seed=seed % 2**32).batch(batch_size, batch_fn=tuple)
        steps = [
            [len(examples[i]) for i in rows] for rows in map(self.rows, range(len(self._rows)))
        ]
        self.layout = choose_layout(steps, batch_size, micro_batch_size, hidden_size)

    @property
    def steps_per_epoch(self) -> int:
        return len(self._rows)

    def rows(self, step: int) -> tuple[int, ...]:
        """Indices of the examples of step `step`, counted over all epochs."""
        rows = self._rows[step]
        assert rows is not None  # nothing is filtered
        return rows

    def __getitem__(self, step: int) -> Step:
        examples = [self._examples[i] for i in self.rows(step)]
        batch = pack(examples, self.layout)
        return Step(
            batch=batch,
            row_ids=tuple(example.id for example in examples),
            tokens=sum(map(len, examples)),
            capacity=int(batch.passes) * self.layout.sequences * self.layout.length,
        )


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Packs items into bins, longest first, each into the first bin with room; indices by bin."""
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        slot = next((b for b, free in enumerate(room) if free >= lengths[item]), len(bins))
        if slot == len(bins):
            bins.append([])
            room.append(capacity)
        bins[slot].append(item)
        room[slot] -= lengths[item]
    return bins


def choose_layout(
    steps: Sequence[Sequence[int]], batch_size: int, micro_batch_size: int, hidden_size: int
) -> Layout:
    """The layout that makes `steps`, given as lists of row lengths, cheapest to compute.

    Longer sequences pack better and attend over more; large passes are padded more, small ones cost
    their start. A pass never holds more tokens than `micro_batch_size` of the longest row.
    """
    longest = max(max(lengths) for lengths in steps)
    grain_size = 32 if longest <= 1024 else 128
    shortest = -(-longest // grain_size) * grain_size
    best = (float("inf"), Layout(batch_size, 1, shortest))
    for length in range(shortest, 4 * shortest, max(grain_size, shortest // 8)):
        counts = np.array([len(first_fit(lengths, length)) for lengths in steps])
        # attention against the rest of a layer: 4 T D to 24 D^2 operations, twice that in time
        token_cost = 1 + length / (3 * hidden_size)
        for sequences in range(1, micro_batch_size * shortest // length + 1):
            passes = np.ceil(counts / sequences).sum()
            cost = float(passes * (sequences * length * token_cost + _PASS_OVERHEAD))
            best = min(best, (cost, Layout(-(-batch_size // sequences), sequences, length)))
    return best[1]


def pack(examples: Sequence[Example], layout: Layout) -> Batch:
    """The arrays of one step; the rows must fit the layout."""
    bins = first_fit([len(example) for example in examples], layout.length)
    shape = (layout.passes * layout.sequences, layout.length)
    tokens, positions, segments, targets = (np.zeros(shape, np.int32) for _ in range(4))
    weights = np.zeros(shape, np.float32)
    for row, members in enumerate(bins):
        start = 0
        for segment, index in enumerate(members, start=1):
            ids, mask = examples[index].token_ids, examples[index].loss_mask
            end = start + len(ids)
            tokens[row, start:end] = ids
            positions[row, start:end] = np.arange(len(ids))
            segments[row, start:end] = segment
            targets[row, start : end - 1] = ids[1:]
            weights[row, start : end - 1] = mask[1:]
            start = end
    deal = (layout.passes, layout.sequences, layout.length)
    used = np.int32(ceil(len(bins) / layout.sequences))
    return Batch(
        tokens.reshape(deal),
        positions.reshape(deal),
        segments.reshape(deal),
        targets.reshape(deal),
        weights.reshape(deal),
        passes=used,
    )
