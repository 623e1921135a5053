"""Order, packing and layout of the input pipeline."""

import numpy as np
import pytest

from tests.training.kit import rows
from thinksafe_jax.errors import InputError
from thinksafe_jax.training import Batches, Example
from thinksafe_jax.training.batches import Layout, choose_layout, first_fit, pack


def batches(examples, seed=5, batch_size=4):
    return Batches(examples, batch_size, 2, hidden_size=24, seed=seed)


def test_an_epoch_holds_every_row_once_in_steps_of_batch_size():
    pipeline = batches(rows(10))
    assert pipeline.steps_per_epoch == 3
    for epoch in range(3):
        steps = [pipeline.rows(epoch * 3 + i) for i in range(3)]
        assert [len(step) for step in steps] == [4, 4, 2]
        assert sorted(row for step in steps for row in step) == list(range(10))


def test_the_order_depends_on_seed_and_epoch_alone():
    one, other = batches(rows(20)), batches(rows(20))
    backwards = [other.rows(step) for step in reversed(range(10))]
    assert [one.rows(step) for step in range(10)] == backwards[::-1]
    first, second = ([one.rows(e * 5 + i) for i in range(5)] for e in range(2))
    assert first != second
    assert first != [batches(rows(20), seed=6).rows(i) for i in range(5)]


def test_packing_keeps_every_row_whole_with_its_own_positions_and_targets():
    examples = rows(7)
    batch = pack(examples, Layout(passes=7, sequences=1, length=64))
    found = []
    for tokens, positions, segments, targets, weights in zip(
        *(array.reshape(-1, 64) for array in batch[:-1]), strict=True
    ):
        assert (weights[segments == 0] == 0).all()
        for segment in range(1, segments.max() + 1):
            (at,) = np.nonzero(segments == segment)
            assert (np.diff(at) == 1).all()
            assert (positions[at] == np.arange(len(at))).all()
            assert (targets[at[:-1]] == tokens[at[1:]]).all()
            assert weights[at[-1]] == 0  # the last token must not predict its neighbour's first
            found.append((tokens[at].tolist(), [0.0, *weights[at[:-1]].tolist()]))
    want = [(e.token_ids.tolist(), (e.loss_mask * 1.0).tolist()) for e in examples]
    assert sorted(found) == sorted(want)


def test_unused_passes_are_at_the_end_and_not_counted():
    batch = pack(rows(4, longest=12), Layout(passes=4, sequences=1, length=64))
    assert 1 <= batch.passes < 4
    assert batch.segments[: batch.passes].any(axis=(1, 2)).all()
    assert not batch.segments[batch.passes :].any()


def test_first_fit_never_overfills_and_loses_nothing():
    lengths = [5, 9, 1, 10, 4, 4]
    bins = first_fit(lengths, 10)
    assert sorted(item for members in bins for item in members) == list(range(6))
    assert all(sum(lengths[i] for i in members) <= 10 for members in bins)
    assert len(bins) == 4


def test_a_pass_stays_within_the_micro_batch():
    for micro in (1, 2, 8):
        layout = choose_layout([[100, 20, 30, 50, 70, 10, 10, 10]] * 5, 8, micro, 512)
        assert layout.sequences * layout.length <= micro * 128
        assert layout.passes * layout.sequences >= 8  # even rows that share no sequence fit


def test_every_step_has_the_same_shape():
    pipeline = batches(rows(10))
    shapes = {pipeline[step].batch.tokens.shape for step in range(6)}
    assert len(shapes) == 1
    step = pipeline[2]
    assert len(step.row_ids) == 2 and step.tokens <= step.capacity


@pytest.mark.parametrize(
    ("examples", "message"),
    [([], "nothing to train on"), ([Example("r7", [1, 2], [True, False])], "'r7' has no token")],
)
def test_what_cannot_be_trained_on_is_refused(examples, message):
    with pytest.raises(InputError, match=message):
        batches(examples)
