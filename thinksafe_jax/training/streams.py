"""What a training row asks of each of its tokens, as data: the streams of an objective.

A stream weighs one kind of loss at every predicted token of a row:

    token_ids       p0   p1   r0   r1   r2  end
    predicts        p1   r0   r1   r2  end           (the last predicts nothing)
    weights          0    1    1    1    1           of shape [T - 1]; count 4

The loss of an optimiser step is the sum over its streams of

    sum over all rows of (weights x loss at the token)  /  sum over all rows of count

so a mean is over the whole step, never over a forward pass, and a row counts in the denominator as
its objective says, not as its weights happen to add up: they may be signed, or zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from thinksafe_jax.training.examples import Example


@dataclass(frozen=True, eq=False)
class Stream:
    """One kind of loss on one row.

    Attributes:
        weights: f32 `[targets]`, one for each token but the first; 0 leaves it out.
        count: what the row adds to the denominator of the stream.
    """

    weights: Float[np.ndarray, " targets"]
    count: float


Streams = Mapping[str, Stream]  # by name, the same names for every row of an objective
StreamsOf = Callable[[Example], Streams]


@dataclass(frozen=True, eq=False)
class StreamedExample(Example):
    """A row that brings the weights of its targets, by stream.

    Attributes:
        streams: all of its objective, zeros where the row has none.
    """

    streams: Streams = field(default_factory=dict)


def given_streams(example: Example) -> Streams:
    """The streams that a row brings with it."""
    assert isinstance(example, StreamedExample), type(example).__name__
    return example.streams


def target_weights(example: Example, weighting: str) -> Stream:
    """What each target of a row counts for.

    Args:
        example: the row, of T tokens.
        weighting: "tokens": each target 1, so the loss is the mean over all targets of the step.
            "authors": the targets of a row share 1, as the authors' KL trainer weighs rows at its
            micro-batch of one row (`kl_trainer.py`; paper.md D29). Its further factor, the number
            of accumulation steps (D28), is left out: it is a slip, and changes only where the
            gradient is clipped.
    """
    mask = example.loss_mask[1:].astype(np.float32)
    targets = float(mask.sum())
    if weighting == "tokens":
        return Stream(mask, targets)
    return Stream(mask / mask.sum(), 1.0)
