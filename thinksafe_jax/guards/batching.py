"""Which exchanges share a forward pass: buckets of like length, a fixed size for each.

An exchange's bucket follows from its own length, and a bucket's batch has one of two sizes, so
only a handful of programs are compiled and a score does not depend on who else is judged.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SHORTEST, _STEP, _MULTIPLE = 64, 1.25, 16


@dataclass(frozen=True)
class Batch:
    """One forward pass: `tokens` i32 `[B, T]`, `lengths` i32 `[B]` (0 for empty rows)."""

    rows: tuple[int, ...]  # index of the exchange in each row that is filled
    tokens: np.ndarray
    lengths: np.ndarray


def bucket_lengths(max_length: int) -> list[int]:
    """Padded lengths, each about 1.25 times the one before, the last exactly `max_length`."""
    lengths = []
    length = _SHORTEST
    while length < max_length:
        lengths.append(length)
        length = -(-int(length * _STEP) // _MULTIPLE) * _MULTIPLE
    return [*lengths, max_length]


def make_batches(
    inputs: Sequence[Sequence[int]], buckets: Sequence[int], batch_tokens: int, num_shards: int = 1
) -> list[Batch]:
    """Batches of about `batch_tokens` padded tokens that cover all inputs, short ones first.

    Args:
        num_shards: parts into which a mesh cuts the rows; each batch has a multiple of it.
    """
    by_bucket: dict[int, list[int]] = {}
    for index in sorted(range(len(inputs)), key=lambda i: len(inputs[i])):
        length = buckets[bisect_left(buckets, len(inputs[index]))]
        by_bucket.setdefault(length, []).append(index)
    batches = []
    for length, members in by_bucket.items():
        full = num_shards * max(1, batch_tokens // length // num_shards)
        quarter = num_shards * max(1, full // 4 // num_shards)
        while members:
            size = full if len(members) > full - quarter else quarter
            batches.append(_batch(members[:size], inputs, size, length))
            members = members[size:]
    return batches


def _batch(members: list[int], inputs: Sequence[Sequence[int]], size: int, length: int) -> Batch:
    tokens = np.zeros((size, length), np.int32)
    lengths = np.zeros(size, np.int32)
    for row, index in enumerate(members):
        lengths[row] = len(inputs[index])
        tokens[row, : lengths[row]] = inputs[index]
    return Batch(tuple(members), tokens, lengths)
