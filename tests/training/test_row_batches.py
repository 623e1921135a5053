"""Rows as calls: each once, shapes that are few, and few empty rows."""

import numpy as np
import pytest

from thinksafe_jax.training.row_batches import row_batches


def rows(*lengths):
    return [[n + 1] * length for n, length in enumerate(lengths)]


def test_every_row_is_in_one_call_as_it_is():
    given = rows(70, 5, 300, 90, 64, 65)
    calls = list(row_batches(given, shards=1))
    assert [call.tokens.shape for call in calls] == [(4, 64), (4, 96), (1, 384)]
    assert sorted(n for call in calls for n in call.members) == list(range(6))
    for call in calls:
        for place, index in enumerate(call.members):
            assert call.tokens[place, : call.lengths[place]].tolist() == given[index]
            assert not call.tokens[place, call.lengths[place] :].any()
        assert not call.lengths[len(call.members) :].any()


@pytest.mark.parametrize(
    ("count", "shards", "sizes"),
    [(1, 1, [1]), (2, 1, [4]), (5, 1, [16]), (17, 1, [64]), (100, 1, [128]), (200, 1, [128, 128]),
     (1, 8, [8]), (9, 8, [32]), (130, 1, [128, 4])],
)  # fmt: skip
def test_the_rows_of_a_call_are_few_sizes(count, shards, sizes):
    """At most 8,192 tokens of a device, and a multiple of the devices."""
    calls = row_batches(rows(*[64] * count), shards)
    assert [len(call.tokens) for call in calls] == sizes


def test_a_row_longer_than_a_call_is_a_call():
    (call,) = row_batches(rows(9000), shards=1)
    assert call.tokens.shape == (1, 12288) and np.count_nonzero(call.tokens) == 9000
