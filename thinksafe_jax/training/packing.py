"""Rows to steps, and the rows of a step to sequences of one length.

A step holds exactly `batch_size` rows, as the paper has it. Taken at random, their tokens differ
several times over, and arrays of one size would be half padding. So the rows of an epoch are dealt
to its steps such that all steps hold about the same number of tokens; which rows meet is drawn anew
in every epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, lcm

import numpy as np

from thinksafe_jax.models import ATTENTION_BLOCK

_PASS_OVERHEAD = 96  # what starting one forward pass costs, counted in tokens
_COMPILE_STEPS = 40  # a further shape must save as much as so many mean steps cost
_SHAPES = 3  # compiled at most
_JITTER = 0.5  # of a row's length, in the order of dealing: other rows meet in every epoch


@dataclass(frozen=True, order=True)
class Layout:
    """Static shape of a step: `passes` forward passes of `sequences` x `length` tokens, at most."""

    passes: int
    sequences: int
    length: int

    @property
    def pass_tokens(self) -> int:
        """Tokens of one forward pass, padding included."""
        return self.sequences * self.length

    def passes_for(self, lengths: Sequence[int]) -> int:
        """Forward passes that rows of these lengths take."""
        return ceil(len(best_fit(lengths, self.length)) / self.sequences)

    def cost(self, lengths: Sequence[int]) -> int:
        """What a step with such rows costs, in tokens."""
        return self.passes_for(lengths) * (self.pass_tokens + _PASS_OVERHEAD)

    def holds(self, lengths: Sequence[int]) -> bool:
        """Whether such rows fit."""
        return max(lengths) <= self.length and self.passes_for(lengths) <= self.passes


def balanced_steps(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Deals rows to steps of `batch_size` (the last may hold fewer) with tokens alike in all.

    Long rows first, each to the step whose tokens would be fewest at the end, were its empty places
    filled with rows of the mean length of those left.

    Args:
        lengths: tokens of each row, in the epoch's random order.
        batch_size: rows of a step.
        rng: draws the order of dealing.

    Returns:
        Indices into `lengths`, one array a step, in an order that says nothing of their lengths.
    """
    rows = len(lengths)
    steps = -(-rows // batch_size)
    room = np.full(steps, batch_size)
    room[-1] = rows - batch_size * (steps - 1)
    total = np.zeros(steps)
    members: list[list[int]] = [[] for _ in range(steps)]
    left = float(lengths.sum())
    order = np.argsort(-lengths * rng.uniform(1 - _JITTER, 1, rows), kind="stable")
    for dealt, row in enumerate(order):
        expected = total + room * (left / (rows - dealt))
        step = int(np.argmin(np.where(room > 0, expected, np.inf)))
        members[step].append(int(row))
        total[step] += lengths[row]
        room[step] -= 1
        left -= float(lengths[row])
    mixed = [rng.permutation(np.array(rows_of_step)) for rows_of_step in members]
    return [mixed[i] for i in rng.permutation(steps - 1)] + mixed[-1:]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Packs items into bins, longest first, each where least room is left; indices by bin."""
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [b for b, free in enumerate(room) if free >= lengths[item]]
        slot = min(fitting, key=lambda b: room[b], default=len(bins))
        if slot == len(bins):
            bins.append([])
            room.append(capacity)
        bins[slot].append(item)
        room[slot] -= lengths[item]
    return bins


def choose_layouts(
    steps: Sequence[Sequence[int]],
    batch_size: int,
    pass_tokens: int,
    hidden_size: int,
    num_shards: int = 1,
    sequence_shards: int = 1,
) -> list[Layout]:
    """The shapes that make `steps`, given as lists of row lengths, cheapest to compute.

    Longer sequences pack better and attend over more; large passes are padded more, small ones cost
    their start. One shape does where lengths are alike. Where a few rows are much longer than the
    rest, shorter shapes are added, for the steps without them, as long as that pays.

    Args:
        steps: tokens of the rows of each step of an epoch.
        batch_size: rows of a step.
        pass_tokens: most tokens of a forward pass; never below the longest row.
        hidden_size: of the model, to weigh attention.
        num_shards: the sequences of a pass must be a multiple of this, to lie on so many devices.
        sequence_shards: and their length a multiple of this, as each lies on so many devices.

    Returns:
        From the shape for every step downwards.
    """
    longest = np.array([max(lengths) for lengths in steps])
    shards = (num_shards, sequence_shards)
    chosen: list[Layout] = []
    cost = np.full(len(steps), np.inf)
    bounds = sorted({int(longest.max()), *np.quantile(longest, [0.5, 0.9, 0.99]).astype(int)})
    for bound in reversed(bounds):
        short = [i for i in range(len(steps)) if longest[i] <= bound]
        most = max(pass_tokens, bound)
        options = _options([steps[i] for i in short], bound, batch_size, most, hidden_size, shards)
        best = cost.copy()
        # the layout that makes these steps cheapest, where each keeps the cheaper of old and new
        layout, costs = min(options, key=lambda x: (np.minimum(x[1], cost[short]).sum(), x[0]))
        best[short] = np.minimum(costs, cost[short])
        saved = cost.sum() - best.sum()
        if not chosen or saved > _COMPILE_STEPS * best.mean():
            chosen.append(layout)
            cost = best
        if len(chosen) == _SHAPES:
            break
    return chosen


def _options(
    steps: Sequence[Sequence[int]],
    bound: int,
    batch_size: int,
    pass_tokens: int,
    hidden_size: int,
    shards: tuple[int, int],
) -> list[tuple[Layout, np.ndarray]]:
    """Every shape worth a look, with the cost of each step in it, in tokens."""
    num_shards, sequence_shards = shards
    # the kernels for long rows take multiples of 128
    grain_size = lcm(16 if bound <= 1024 else 128, sequence_shards)
    shortest = -(-bound // grain_size) * grain_size
    totals = np.array([sum(lengths) for lengths in steps])
    # a bound may lie between steps: a last step of a row or two can be shorter in all than it
    whole = max(-(-int(totals.max()) // grain_size) * grain_size, shortest)
    stride = max(grain_size, shortest // 8)
    if bound > 1024 or sequence_shards > 1:  # short rows on one device keep the shapes they had
        stride -= stride % grain_size
    lengths_tried = {*range(shortest, min(4 * shortest, whole) + 1, stride)}
    lengths_tried |= {-(-whole // n // grain_size) * grain_size for n in (1, 2, 3, 4)}
    options = []
    most = max(shortest, pass_tokens // num_shards)
    for length in sorted(n for n in lengths_tried if shortest <= n <= most):
        counts = np.array([len(best_fit(lengths, length)) for lengths in steps])
        # attention against the rest of a layer: 4 T D to 24 D^2 operations, twice that in time;
        # what lies further away than some blocks is another row, and skipped
        token_cost = 1 + min(length, ATTENTION_BLOCK) / (3 * hidden_size)
        for groups in range(1, max(1, pass_tokens // (length * num_shards)) + 1):
            sequences = groups * num_shards
            passes = np.ceil(counts / sequences)
            layout = Layout(-(-batch_size // sequences), sequences, length)
            cost = passes * (layout.pass_tokens * token_cost + _PASS_OVERHEAD)
            options.append((layout, cost))
    return options
