"""Batches cover every input once, keep to their size and waste little."""

from itertools import pairwise

import numpy as np

from thinksafe_jax.guards import bucket_lengths, make_batches


def test_buckets_grow_by_a_quarter_up_to_the_limit():
    buckets = bucket_lengths(16384)
    steps = [b / a for a, b in pairwise(buckets)]
    assert buckets[0] == 64
    assert buckets[-1] == 16384
    assert max(steps) < 1.45
    assert sorted(set(buckets)) == buckets
    assert bucket_lengths(48) == [48]


def test_batches_cover_all_inputs_with_two_sizes_per_bucket():
    rng = np.random.default_rng(0)
    inputs = [list(range(1, n + 1)) for n in rng.integers(1, 700, 300)]
    batches = make_batches(inputs, bucket_lengths(700), 4096)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(300))
    shapes: dict[int, set[int]] = {}
    for batch in batches:
        assert batch.tokens.size <= 4096
        shapes.setdefault(batch.tokens.shape[1], set()).add(batch.tokens.shape[0])
        for place, row in enumerate(batch.rows):
            length = batch.lengths[place]
            assert batch.tokens[place, :length].tolist() == inputs[row]
            assert not batch.tokens[place, length:].any()
        assert not batch.lengths[len(batch.rows) :].any()
    assert all(len(sizes) <= 2 for sizes in shapes.values())


def test_a_row_longer_than_the_batch_has_a_batch_of_its_own():
    batches = make_batches([[1] * 500, [1] * 500], bucket_lengths(512), 100)
    assert [batch.tokens.shape for batch in batches] == [(1, 512), (1, 512)]
