"""Objectives as streams of weights: summed over the whole step, never as means of means.

The test's own objective has what a policy gradient has: signed weights that add up to anything,
positions and rows without any, a row that is left out of the denominator as well, and three streams
that are divided by three denominators.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import kit
from thinksafe_jax.models import forward, init_adapter, logits
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.training import TrainingMesh, make_step
from thinksafe_jax.training.objectives import OBJECTIVES
from thinksafe_jax.training.objectives._weighted_streams import WeightedStreams
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import init_state, make_gradient
from thinksafe_jax.training.streams import Stream

pytestmark = pytest.mark.slow

CONFIG = kit.settings(lora_dropout=0.0, kl="reverse", kl_weight=0.3)
ROWS = kit.rows(8, seed=4)
UNJUDGED, EQUAL = "row-5", "row-2"  # no reward, so in no sum; a group without spread: advantage 0


class Signed(WeightedStreams):
    """`pg` by rows, `ce` by its tokens on two rows, `kl` by all tokens but with uneven weights."""

    stream_names = ("pg", "ce", "kl")

    def streams(self, example):
        rng = np.random.default_rng(int(example.id[4:]))
        mask = example.loss_mask[1:].astype(np.float32)
        judged = float(example.id != UNJUDGED)
        advantage = 0.0 if example.id == EQUAL else rng.normal()
        weights = (judged * advantage / mask.sum() * mask).astype(np.float32)
        taught = mask * (example.id in ("row-1", "row-6"))
        near = (judged * mask * rng.integers(0, 2, mask.shape)).astype(np.float32)
        return {
            "pg": Stream(weights, judged),
            "ce": Stream(taught, float(taught.sum())),
            "kl": Stream(near, judged * float(mask.sum())),
        }


def setup_of(mesh=None):
    setup = kit.setup(CONFIG, mesh=mesh)
    vars(setup)["objective"] = Signed(CONFIG)
    return setup


def adapter():
    return jax.tree.map(
        lambda x: x + 0.1, init_adapter(kit.CONFIG, setup_of().lora, jax.random.key(2))
    )


def expected(trainable, rows=ROWS):
    """(loss, gradient) by the definition: every row alone, every logit at once."""
    objective, params = setup_of().objective, kit.params()
    streams = [objective.streams(row) for row in rows]
    counts = {name: sum(row[name].count for row in streams) for name in Signed.stream_names}
    parts = []
    for row, of_row in zip(rows, streams, strict=True):
        weights = {name: stream.weights / counts[name] for name, stream in of_row.items()}
        ids = np.asarray(row.token_ids, np.int32)
        parts.append(loss_of_row(trainable, params, ids, weights))
    return jax.tree.map(lambda *terms: sum(terms), *parts)


@jax.jit
@jax.value_and_grad
def loss_of_row(trainable, params, ids, weights):
    """Of token ids [T], and each stream's weights [T - 1]."""
    lora, tokens = setup_of().lora, ids[None]
    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    arrays = (tokens, places, jnp.ones_like(tokens))
    log_p, log_ref = (
        jax.nn.log_softmax(logits(params, kit.CONFIG, forward(params, kit.CONFIG, *arrays, **m)))
        for m in ({"adapter": trainable, "lora": lora}, {})
    )
    nll = -log_p[0, jnp.arange(len(ids) - 1), ids[1:]]
    kl = jnp.sum(jnp.exp(log_p) * (log_p - log_ref), axis=-1)[0, :-1]
    losses = {"pg": nll, "ce": nll, "kl": CONFIG.kl_weight * kl}
    return sum(jnp.sum(losses[name] * weights[name]) for name in losses)


@pytest.fixture(scope="module")
def oracle():
    return expected(adapter())


def assert_same(have, want):
    (loss, grads), (expected_loss, expected_grads) = have, want
    np.testing.assert_allclose(loss, expected_loss, rtol=2e-5, atol=2e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * float(jnp.abs(b).max()))


def measured(layout, mesh=None):
    """(loss, gradient) of a step that is packed in this way."""
    setup, trainable, params = setup_of(mesh), adapter(), kit.params()
    batch = kit.packed(ROWS, layout, setup)
    if mesh is not None:
        trainable = mesh.put(trainable, mesh.trainable(setup.lora))
        params, batch = mesh.put(params, mesh.param_shardings()), mesh.feed(batch)
    totals, grads = jax.jit(make_gradient(setup))(trainable, params, batch, jax.random.key(0))
    scale = float(batch.denominator)
    return float(totals.loss) / scale, jax.tree.map(lambda g: np.asarray(g) / scale, grads)


@pytest.mark.parametrize(
    "layout", [Layout(1, 8, 32), Layout(1, 2, 144), Layout(8, 1, 32), Layout(4, 1, 96)]
)
def test_signed_and_absent_weights_are_summed_over_the_step(oracle, layout):
    """Rows alone, packed, accumulated, both: one number, and one gradient."""
    assert_same(measured(layout), oracle)


@pytest.mark.parametrize(("data", "fsdp"), [(1, 2), (2, 2)])
def test_they_are_on_a_mesh(oracle, data, fsdp):
    phase = load_mesh("cpu-8").train.with_axes({"data": data, "fsdp": fsdp, "tensor": 1})
    assert_same(measured(Layout(2, 4, 64), TrainingMesh.of_phase(phase, kit.CONFIG)), oracle)


def test_a_row_that_is_left_out_changes_nothing(oracle):
    """Neither its sums nor its share of the denominators: as if it had never been sampled."""
    rest = [row for row in ROWS if row.id != UNJUDGED]
    assert_same(expected(adapter(), rest), oracle)


def test_opposite_weights_at_one_position_are_no_reason_to_skip_it():
    """Weights of two streams may cancel where their losses do not."""
    config, (row,) = kit.settings(lora_dropout=0.0), kit.rows(1)
    mask = row.loss_mask[1:].astype(np.float32)

    class Opposed(WeightedStreams):
        stream_names = ("pg", "kl")

        def streams(self, example):
            count = float(mask.sum())
            return {"pg": Stream(-mask, count), "kl": Stream(mask, count)}

    setup = kit.setup(config)
    vars(setup)["objective"] = Opposed(config)
    batch = kit.packed([row], Layout(1, 1, 32), setup)
    totals, _ = jax.jit(make_gradient(setup))(adapter(), kit.params(), batch, jax.random.key(0))
    assert totals.objective["pg"] < 0 < totals.objective["kl"]
    assert int(totals.tokens) == int(mask.sum())


def test_the_step_logs_each_stream_by_its_own_weights():
    setup = setup_of()
    state = init_state(adapter(), setup)
    batch = kit.packed(ROWS, Layout(4, 1, 96), setup)
    state, metrics = make_step(setup, 10)(state, kit.params(), batch, jax.random.key(0))
    assert set(metrics.objective) == {"policy_gradient", "cross_entropy", "kl"}
    assert metrics.finite
    assert metrics.objective["cross_entropy"] > 0 and metrics.objective["kl"] > 0


def test_a_step_in_which_nothing_counts_leaves_the_weights_alone():
    """Every row unjudged, as with a guard that is down: no NaN, and no step that is skipped."""
    setup = setup_of()
    rows = [row for row in ROWS if row.id == UNJUDGED]
    batch = kit.packed(rows, Layout(1, 1, 32), setup)
    state, before = init_state(adapter(), setup), kit.flat(adapter())
    state, metrics = make_step(setup, 10)(state, kit.params(), batch, jax.random.key(0))
    assert metrics.finite and metrics.loss == 0.0 and metrics.grad_norm == 0.0
    kit.assert_same_bits(kit.flat(state.trainable), before)


def test_every_objective_names_the_streams_that_it_gives():
    """As `plan` reads them, which has no rows."""
    for name, make in OBJECTIVES.items():
        if name not in ("rollout-streams", "safekey"):  # the method's; those of rows with spans
            assert tuple(make(CONFIG).streams(ROWS[0])) == make(CONFIG).stream_names
