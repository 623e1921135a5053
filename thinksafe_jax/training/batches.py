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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np

from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.training.examples import Example, data_hash
from thinksafe_jax.training.packing import Layout, balanced_steps, best_fit, choose_layouts
from thinksafe_jax.training.streams import Streams, StreamsOf

# (example, epochs left, this one included) -> the rows that it becomes
RowsOf = Callable[[Example, int], Sequence[Example]]
Array = Any  # numpy on the host, jax inside the step
Tree = Any  # nested dict of arrays


class Tokens(NamedTuple):
    """Arrays with a value for each token: `[P, S, T]` of a step, `[S, T]` of a forward pass.

    `targets[..., t]` is the token after t in the same row; `streams` holds, under each name, the
    float32 weight of that target: 0.0 where it is none. `facts` holds what else is known of it, as
    how likely it was when it was sampled: `[..., T]`, or `[..., T, D]`.
    """

    tokens: Array
    positions: Array
    segments: Array
    targets: Array
    streams: dict[str, Array]
    facts: dict[str, Array] = {}  # noqa: RUF012 - never written to


class Batch(NamedTuple):
    """Arrays of one optimiser step: `rows` as above, and two scalars.

    The weights of every stream are scaled such that one denominator does for all of them.
    """

    rows: Tokens
    denominator: Array  # f32
    passes: Array  # i32: forward passes in use
    reference_head: Array | None = None  # `[V, D]`, where the reference is another model


@dataclass(frozen=True)
class Step:
    """One optimiser step's input."""

    batch: Batch
    row_ids: tuple[str, ...]
    tokens: int  # tokens of its rows
    capacity: int  # tokens that its passes compute, padding included


class StepSource(Protocol):
    """Where the trainer's steps come from: rows on the disk, or answers of the model itself."""

    num_steps: int  # of the whole run
    steps_per_epoch: int
    looks_at_weights: bool  # a step is drawn from the weights as the step before has left them

    @property
    def summary(self) -> Mapping[str, int]:
        """Counts for the manifest."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """What must be equal for a run to be continued, and on all hosts."""
        ...

    def steps(self, start: int, weights: Callable[[], Tree]) -> Iterator[Step]:
        """The steps from number `start` on, equal however often a run was interrupted.

        Args:
            weights: gives what is in training as it is when a step is drawn; the arrays live until
                the next step is taken.
        """
        ...


@dataclass(frozen=True)
class BatchShape:
    """How rows become the arrays of a step.

    Attributes:
        batch_size: rows of an optimiser step.
        micro_batch_size: bounds the memory of a forward pass to that of so many longest rows.
        max_length: tokens of the longest row that is taken.
        hidden_size: of the model, to weigh attention when the layout is chosen.
        num_shards: devices that the sequences of a pass are spread over.
        sequence_shards: devices that share each of them.
    """

    batch_size: int
    micro_batch_size: int
    max_length: int
    hidden_size: int
    num_shards: int = 1
    sequence_shards: int = 1


class Batches:
    """Steps of a dataset by number, so that a resumed run needs the step's number alone.

    The order depends only on the seed and the epoch: never on the machine or on what came before.

    Args:
        examples: the rows; those longer than `max_length` are left out and counted.
        shape: how they are packed.
        streams_of: weighs the targets of a row, see `Objective.streams`.
        seed: of the order.
        epochs: how often every row is taken.
        rows_of: the rows that an example becomes, see `Objective.rows`; default itself.
        rows_of_example: the most that these are.

    Raises:
        InputError: no rows, or a row without a single training target.
    """

    looks_at_weights = False

    def __init__(
        self,
        examples: Sequence[Example],
        shape: BatchShape,
        streams_of: StreamsOf,
        *,
        seed: int,
        epochs: int,
        rows_of: RowsOf | None = None,
        rows_of_example: int = 1,
    ):
        kept = [example for example in examples if len(example) <= shape.max_length]
        if not kept:
            raise InputError("nothing to train on: the dataset has no usable rows")
        for example in kept:
            if not example.loss_mask[1:].any():
                raise InputError(f"row {quoted(example.id)} has no token to train on")
        self._examples, self._streams_of, self._epochs = kept, streams_of, epochs
        self._rows_of = rows_of or (lambda example, epochs_left: (example,))
        self._left_out = len(examples) - len(kept)
        self._batch_size, self._seed = shape.batch_size, seed % 2**32
        self.steps_per_epoch = -(-len(kept) // shape.batch_size)
        self.num_steps = epochs * self.steps_per_epoch
        self._lengths = np.array([len(example) for example in kept])
        self._order = grain.MapDataset.source(range(len(kept))).shuffle(seed=self._seed)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
        steps = [[len(row) for row in self._rows(i, 1)] for i in range(self.steps_per_epoch)]
        tokens = shape.micro_batch_size * int(self._lengths.max())
        self.layouts = choose_layouts(
            steps,
            rows_of_example * shape.batch_size,
            tokens,
            shape.hidden_size,
            shape.num_shards,
            shape.sequence_shards,
        )

    @property
    def summary(self) -> Mapping[str, int]:
        """Rows taken, and rows left out for their length."""
        return {"rows": len(self._examples), "dropped_rows": self._left_out}

    @property
    def identity(self) -> Mapping[str, str]:
        """A hash of the rows that are taken, in their order."""
        return {"data sha256": data_hash(self._examples)}

    def steps(self, start: int, weights: Callable[[], Tree] = dict) -> Iterator[Step]:
        """The steps from number `start` on; `weights` is not asked: the rows are given."""
        del weights
        return map(self.__getitem__, range(start, self.num_steps))

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

    def _rows(self, step: int, epochs_left: int) -> list[Example]:
        """The rows that the examples of a step become."""
        examples = (self._examples[i] for i in self.rows(step))
        return [row for example in examples for row in self._rows_of(example, epochs_left)]

    def __getitem__(self, step: int) -> Step:
        examples = self._rows(step, self._epochs - step // self.steps_per_epoch)
        sizes = [len(example) for example in examples]
        layout = min(
            (layout for layout in self.layouts if layout.holds(sizes)), key=lambda x: x.cost(sizes)
        )
        batch = pack(examples, layout, self._streams_of)
        return Step(
            batch=batch,
            row_ids=tuple(dict.fromkeys(example.id for example in examples)),
            tokens=sum(sizes),
            capacity=int(batch.passes) * layout.pass_tokens,
        )


def pack(examples: Sequence[Example], layout: Layout, streams_of: StreamsOf) -> Batch:
    """The arrays of one step; the rows must fit the layout."""
    streams, denominator = _shared_denominator([streams_of(example) for example in examples])
    bins = best_fit([len(example) for example in examples], layout.length)
    shape = (layout.passes * layout.sequences, layout.length)
    tokens, positions, segments, targets = (np.zeros(shape, np.int32) for _ in range(4))
    weights = {name: np.zeros(shape, np.float32) for name in streams[0]}
    facts = {
        name: np.zeros((*shape, *fact.shape[1:]), fact.dtype)
        for name, fact in examples[0].facts.items()
    }
    for row, members in enumerate(bins):
        start = 0
        for segment, index in enumerate(members, start=1):
            ids = examples[index].token_ids
            end = start + len(ids)
            tokens[row, start:end] = ids
            positions[row, start:end] = np.arange(len(ids))
            segments[row, start:end] = segment
            targets[row, start : end - 1] = ids[1:]
            for name, weight in streams[index].items():
                weights[name][row, start : end - 1] = weight
            for name, fact in examples[index].facts.items():
                facts[name][row, start : end - 1] = fact
            start = end

    def deal(array: np.ndarray) -> np.ndarray:
        return array.reshape(layout.passes, layout.sequences, *array.shape[1:])

    return Batch(
        Tokens(
            *map(deal, (tokens, positions, segments, targets)),
            streams={name: deal(array) for name, array in weights.items()},
            facts={name: deal(array) for name, array in facts.items()},
        ),
        denominator=np.float32(denominator),
        passes=np.int32(ceil(len(bins) / layout.sequences)),
    )


def _shared_denominator(rows: Sequence[Streams]) -> tuple[list[dict[str, np.ndarray]], float]:
    """Weights `[T - 1]` of every row by stream, scaled to the denominator they are all divided by.

    That is the first stream's own. Another stream's weights are scaled by the ratio of the two, so
    that the step adds up one loss, and one gradient, and divides once. Streams with the same
    denominator are not touched.
    """
    counts = {name: sum(row[name].count for row in rows) for name in rows[0]}
    shared = next((count for count in counts.values() if count), 1.0)  # a step may ask for nothing
    scales = {name: shared / (count or shared) for name, count in counts.items()}

    def scaled(name: str, weights: np.ndarray) -> np.ndarray:
        return weights if scales[name] == 1 else weights * np.float32(scales[name])

    return [{name: scaled(name, row[name].weights) for name in row} for row in rows], shared
