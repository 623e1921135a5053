"""Rows of any lengths as calls of a compiled function: few shapes, few empty rows.

    rows, any lengths      by padded length, at most so many tokens a call
    3 of 70 tokens         [4, 96]      a row of zeros is the fourth
    1 of 300               [1, 384]

On each device a call has 1, 4, 16 ... rows, or as many as may be: where there are few rows few are
computed, and a run compiles a handful of programs for each length.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_SHORTEST = 64  # padded length of a row
_CALL_TOKENS = 8192  # of a call on each device, at most, unless one row is longer


class RowBatch(NamedTuple):
    """The rows of one call.

    Attributes:
        members: which rows, in order.
        tokens: i32 `[S, T]`, zeros behind each row and in the empty ones behind the last.
        lengths: i32 `[S]`.
    """

    members: list[int]
    tokens: np.ndarray
    lengths: np.ndarray


def row_batches(
    rows: Sequence[Sequence[int]], shards: int, multiple: int = 1
) -> Iterator[RowBatch]:
    """The calls that take all rows, shortest first.

    Args:
        rows: token ids of each.
        shards: devices that the rows of a call are spread over; their number is a multiple of it.
        multiple: so is their length of this.
    """
    by_length: dict[int, list[int]] = {}
    for index, ids in enumerate(rows):
        length = multiple * -(-_padded(len(ids)) // multiple)
        by_length.setdefault(length, []).append(index)
    for length, members in sorted(by_length.items()):
        most = shards * max(1, _CALL_TOKENS // length)
        for first in range(0, len(members), most):
            part = members[first : first + most]
            doublings = (-(-len(part) // shards) - 1).bit_length()
            count = min(most, shards * 4 ** -(-doublings // 2))
            tokens, lengths = np.zeros((count, length), np.int32), np.zeros(count, np.int32)
            for place, index in enumerate(part):
                ids = rows[index]
                tokens[place, : len(ids)], lengths[place] = ids, len(ids)
            yield RowBatch(part, tokens, lengths)


def _padded(length: int) -> int:
    """A length that few others have: 64, 96, 128, 192, 256 ..."""
    size = _SHORTEST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size
