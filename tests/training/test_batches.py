"""Order, packing and layout of the input pipeline."""

import dataclasses

import numpy as np
import pytest

from tests.training import kit
from tests.training.kit import packed, rows
from thinksafe_jax.errors import InputError
from thinksafe_jax.training import Example
from thinksafe_jax.training.batches import Batches, BatchShape, pack
from thinksafe_jax.training.packing import Layout, balanced_steps, best_fit, choose_layouts
from thinksafe_jax.training.streams import Stream, target_weights

pytestmark = pytest.mark.slow


def every_target(example):
    return {"ce": target_weights(example, "tokens")}


def batches(examples, seed=5, epochs=2):
    shape = BatchShape(batch_size=4, micro_batch_size=2, max_length=64, hidden_size=24)
    return Batches(examples, shape, every_target, seed=seed, epochs=epochs)


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
    batch = packed(examples, Layout(passes=7, sequences=1, length=64))
    found = []
    for tokens, positions, segments, targets, weights in zip(
        *(array.reshape(-1, 64) for array in (*batch.rows[:4], batch.rows.streams["ce"])),
        strict=True,
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
    batch = packed(rows(4, longest=12), Layout(passes=4, sequences=1, length=64))
    assert 1 <= batch.passes < 4
    assert batch.rows.segments[: batch.passes].any(axis=(1, 2)).all()
    assert not batch.rows.segments[batch.passes :].any()


def test_best_fit_never_overfills_and_loses_nothing():
    lengths = [5, 9, 1, 10, 4, 4]
    bins = best_fit(lengths, 10)
    assert sorted(item for members in bins for item in members) == list(range(6))
    assert all(sum(lengths[i] for i in members) <= 10 for members in bins)
    assert len(bins) == 4


def long_tailed(count: int, longest: int, seed: int = 0) -> np.ndarray:
    lengths = np.random.default_rng(seed).lognormal(5.2, 0.9, count)
    return np.clip(lengths, 16, longest).astype(int)


def test_steps_hold_equally_many_rows_and_nearly_equal_tokens():
    lengths = long_tailed(403, 1024)
    steps = balanced_steps(lengths, 8, np.random.default_rng(1))
    assert [len(step) for step in steps] == [8] * 50 + [3]
    assert sorted(row for step in steps for row in step) == list(range(403))
    totals = np.array([lengths[step].sum() for step in steps])
    assert totals[:-1].max() / totals[:-1].mean() < 1.03
    at_random = lengths[:400].reshape(50, 8).sum(axis=1)
    assert at_random.max() / at_random.mean() > 1.5  # what dealing saves


def test_other_rows_meet_in_every_epoch():
    lengths = long_tailed(200, 1024)
    one, other = (
        {frozenset(step.tolist()) for step in balanced_steps(lengths, 4, np.random.default_rng(n))}
        for n in (0, 1)
    )
    assert len(one & other) <= 2


@pytest.mark.parametrize(("longest", "efficiency", "shapes"), [(1024, 0.97, 1), (16384, 0.9, 3)])
def test_little_is_padding(longest, efficiency, shapes):
    """Also where a row is as long as hundreds of others: those steps get a shape of their own."""
    lengths = long_tailed(1600, longest)
    lengths[:: len(lengths) // 4] = longest
    examples = [Example(f"{n}", np.ones(k), np.ones(k, bool)) for n, k in enumerate(lengths)]
    shape = BatchShape(batch_size=8, micro_batch_size=4, max_length=longest, hidden_size=384)
    pipeline = Batches(examples, shape, every_target, seed=0, epochs=1)
    assert 1 <= len(pipeline.layouts) <= shapes
    steps = [pipeline[i] for i in range(pipeline.steps_per_epoch)]
    assert sum(step.tokens for step in steps) == lengths.sum()
    assert lengths.sum() / sum(step.capacity for step in steps) >= efficiency


def test_a_pass_stays_within_the_micro_batch():
    for micro in (1, 2, 8):
        steps = [[100, 20, 30, 50, 70, 10, 10, 10]] * 5
        for layout in choose_layouts(steps, 8, micro * 128, 512):
            assert layout.pass_tokens <= micro * 128
            assert layout.passes * layout.sequences >= 8  # even rows that share no sequence fit


def test_a_last_step_of_one_short_row_has_a_shape():
    """Nine rows in steps of eight: half way between the steps' longest rows lies no row at all."""
    layouts = choose_layouts([[100, 20, 30, 50, 70, 10, 10, 10], [30]], 8, 128, 512)
    assert layouts[0].length >= 100
    assert all(layout.passes * layout.sequences >= 8 for layout in layouts)


def test_sequences_are_spread_evenly_over_devices():
    steps = [[100, 20, 30, 50, 70, 10, 10, 10]] * 5
    for layout in choose_layouts(steps, 8, 128, 512, num_shards=4):
        assert layout.sequences % 4 == 0


def test_the_authors_weighting_makes_every_row_count_alike():
    """Their KL trainer at its micro-batch of one row (paper.md D29); ours counts targets."""
    short, long = (Example("r", np.arange(n), np.arange(n) >= 1) for n in (3, 9))
    for example in (short, long):
        stream = target_weights(example, "tokens")
        assert stream.weights.sum() == stream.count == len(example) - 1
        stream = target_weights(example, "authors")
        np.testing.assert_allclose(stream.weights.sum(), 1.0, rtol=1e-6)
        assert stream.count == 1.0


def test_every_stream_is_divided_by_its_own_denominator():
    """`ce` by its 5 targets, a signed stream by a count of the rows that its weights do not show.

    They are scaled to one denominator, the first stream's; a row without weight still counts.
    """
    examples = [Example(str(n), np.arange(n), np.arange(n) >= 1) for n in (3, 4)]
    signs = {"3": -2.0, "4": 0.0}

    def streams(example):
        weights = np.full(len(example) - 1, signs[example.id], np.float32)
        return {**every_target(example), "pg": Stream(weights, 1.0)}

    batch = pack(examples, Layout(2, 1, 8), streams)
    assert batch.denominator == 5.0
    sums = {name: float(x.sum()) / 5.0 for name, x in batch.rows.streams.items()}
    np.testing.assert_allclose(sums["ce"], 1.0)
    np.testing.assert_allclose(sums["pg"], (2 * -2.0 + 3 * 0.0) / 2, rtol=1e-6)


def test_a_step_in_which_nothing_counts_divides_by_one():
    """As when a guard was down for every row of a step: no loss, and no NaN."""
    nothing = lambda example: {"pg": Stream(np.zeros(len(example) - 1, np.float32), 0.0)}  # noqa: E731
    batch = pack(rows(2), Layout(1, 1, 64), nothing)
    assert batch.denominator == 1.0 and not batch.rows.streams["pg"].any()


def test_rows_beyond_the_models_context_are_said(caplog):
    examples = rows(10)
    long = sum(len(example) > 20 for example in examples)
    small = dataclasses.replace(kit.CONFIG, max_position_embeddings=20)
    kit.setup(cfg=small).batches(examples, seed=3)
    assert f"{long} of 10 rows are longer than the model's context of 20 tokens" in caplog.text
    caplog.clear()
    kit.setup(kit.settings(max_length=20), small).batches(examples, seed=3)  # they are left out
    kit.setup().batches(examples, seed=3)
    assert 0 < long < 10 and not caplog.text


def test_every_step_has_the_same_shape():
    pipeline = batches(rows(10))
    shapes = {pipeline[step].batch.rows.tokens.shape for step in range(6)}
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
