"""SafeKey's losses beside their definition in numpy: spans alone, denominators of their own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import kit
from thinksafe_jax.config.safekey_section import SafeKeyConfig
from thinksafe_jax.models import forward, init_adapter, logits
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.training import TrainingMesh
from thinksafe_jax.training.batches import pack
from thinksafe_jax.training.examples import Example, KeySpans
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import make_gradient

NUMBERS = SafeKeyConfig(last_epochs=2, key_weight=0.3, gate_weight=0.7, gate_share=0.25)
CONFIG = kit.settings(objective="safekey", lora_dropout=0.0, safekey=NUMBERS)
# tokens of prompt, understanding, key sentence, rest
PARTS = [(5, 4, 3, 6), (2, 1, 2, 0), (7, 3, 5, 2), (3, 2, 1, 9)]


def example(number, parts, marked=True):
    rng = np.random.default_rng(number)
    prompt, understanding, sentence, _ = parts
    ids = rng.integers(0, kit.CONFIG.vocab_size, sum(parts))
    ends = prompt + understanding, prompt + understanding + sentence
    spans = KeySpans(*ends, harmful=number % 2 == 0) if marked else None
    return Example(f"row-{number}", ids, np.arange(len(ids)) >= prompt, spans=spans)


ROWS = [*(example(n, parts) for n, parts in enumerate(PARTS)), example(9, (4, 3, 2, 2), False)]


def trainable(setup):
    adapter = init_adapter(kit.CONFIG, setup.lora, jax.random.key(2))
    return setup.with_heads(jax.tree.map(lambda x: x + 0.1, adapter), jax.random.key(3))


def expanded(setup, epochs_left=1):
    return [row for e in ROWS for row in setup.objective.rows(e, epochs_left)]


# --- which rows and weights ------------------------------------------------------------------


def test_before_the_last_epochs_there_is_the_cross_entropy_alone():
    objective = kit.setup(CONFIG).objective
    (row,) = objective.rows(ROWS[0], epochs_left=3)
    np.testing.assert_array_equal(row.streams["ce"].weights, ROWS[0].loss_mask[1:])
    assert not row.streams["key"].weights.any() and not row.streams["gate"].weights.any()
    assert [row.streams[n].count for n in ("ce", "key", "gate")] == [13.0, 0.0, 0.0]
    assert len(objective.rows(ROWS[0], epochs_left=2)) == 2
    assert len(objective.rows(ROWS[4], epochs_left=1)) == 1  # nothing is marked in it


def test_the_key_sentence_stands_in_a_row_without_the_prompt():
    whole, alone = kit.setup(CONFIG).objective.rows(ROWS[0], epochs_left=1)
    assert alone.token_ids.tolist() == ROWS[0].token_ids[5:12].tolist()
    assert alone.streams["key"].weights.tolist() == [0, 0, 0, 1, 1, 1]
    assert (alone.streams["key"].count, whole.streams["key"].count) == (3.0, 0.0)
    assert whole.streams["gate"].weights.sum() == whole.streams["gate"].count == 1.0
    assert not alone.streams["gate"].weights.any() and not alone.streams["ce"].weights.any()
    np.testing.assert_allclose(whole.facts["understanding"], [0] * 5 + [1 / 4] * 4 + [0] * 8)
    np.testing.assert_allclose(whole.facts["context"], [1 / 9] * 9 + [0] * 8)


# --- the loss --------------------------------------------------------------------------------


def expected(tree):
    """By its definition: every row alone; the prompt is masked, and keeps its places."""
    setup, params = kit.setup(CONFIG), kit.params()
    ce, key, gate, counts = 0.0, 0.0, 0.0, np.zeros(3)
    for row in ROWS:
        ids = jnp.asarray(row.token_ids, jnp.int32)[None]
        places = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
        start = int(np.argmax(row.loss_mask))
        masked = (places >= start).astype(jnp.int32) + 1  # two parts that do not see each other

        def states(segments, ids=ids, places=places):
            more = {"adapter": tree, "lora": setup.lora}
            return forward(params, kit.CONFIG, ids, places, segments, **more)

        def nll(hidden, ids=ids):
            log_p = jax.nn.log_softmax(logits(params, kit.CONFIG, hidden))
            return -log_p[0, jnp.arange(ids.shape[1] - 1), ids[0, 1:]]

        hidden = states(jnp.ones_like(ids))
        ce += jnp.sum(nll(hidden)[start - 1 :])
        counts[0] += ids.shape[1] - start
        if row.spans is None:
            continue
        first, end = row.spans.understanding_end, row.spans.sentence_end
        key += jnp.sum(nll(states(masked))[first - 1 : end - 1])
        counts[1] += end - first
        y = float(row.spans.harmful)
        for name, share, mean in (
            ("understanding", 0.25, hidden[0, start:first].mean(axis=0)),
            ("context", 0.75, hidden[0, :first].mean(axis=0)),
        ):
            logit = mean @ tree["heads"][name]["kernel"] + tree["heads"][name]["bias"]
            p = jax.nn.sigmoid(logit)
            gate += share * -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))
        counts[2] += 1
    return ce / counts[0] + 0.3 * key / counts[1] + 0.7 * gate / counts[2]


@pytest.fixture(scope="module")
def oracle():
    return jax.jit(jax.value_and_grad(expected))(trainable(kit.setup(CONFIG)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "on_mesh"),
    [(Layout(1, 9, 32), False), (Layout(4, 1, 48), False), (Layout(2, 4, 32), True)],
)
def test_loss_and_gradient_are_those_of_the_definition(oracle, layout, on_mesh):
    """Rows side by side, packed and accumulated, and on eight devices; heads among what learns."""
    phase = load_mesh("cpu-8").train.with_axes({"data": 2, "fsdp": 2, "tensor": 1})
    mesh = TrainingMesh.of_phase(phase, kit.CONFIG) if on_mesh else None
    setup, params = kit.setup(CONFIG, mesh=mesh), kit.params()
    tree, batch = trainable(setup), pack(expanded(setup), layout, setup.objective.streams)
    if mesh is not None:
        tree = mesh.put(tree, setup.trainable_shardings())
        params, batch = mesh.put(params, mesh.param_shardings()), mesh.feed(batch)
    totals, grads = jax.jit(make_gradient(setup))(tree, params, batch, jax.random.key(0))
    scale = float(batch.denominator)
    np.testing.assert_allclose(totals.loss / scale, oracle[0], rtol=2e-5)
    assert grads.keys() == {"layers", "heads"}
    have, want = (jax.tree_util.tree_leaves_with_path(g) for g in (grads, oracle[1]))
    for (path, a), (_, b) in zip(have, want, strict=True):
        np.testing.assert_allclose(
            np.asarray(a) / scale, b, rtol=2e-4, atol=3e-5 * float(jnp.abs(b).max()),
            err_msg=jax.tree_util.keystr(path),
        )  # fmt: skip


@pytest.mark.slow
def test_it_trains_resumes_to_the_bit_and_exports_no_head(tmp_path):
    """Three epochs, the losses in the last two; killed between, and continued."""
    config = replace(CONFIG, epochs=3, lora_dropout=0.05, checkpoint_every=1)
    lines: list[dict] = []
    setup = kit.setup(config)
    whole = kit.train(kit.params(), setup, ROWS, log=lambda **v: lines.append(v))
    assert set(whole.trainable) == {"layers"}
    logged = [{"key", "gate"} <= line.keys() for line in lines]
    assert logged == [False, False, True, True, True, True]

    class Killed(Exception):
        pass

    def die(**values):
        if values["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        kit.train(kit.params(), setup, ROWS, checkpoint_dir=tmp_path, log=die)
    again = kit.train(kit.params(), kit.setup(config), ROWS, checkpoint_dir=tmp_path)
    for a, b in zip(*(jax.tree.leaves(r.trainable) for r in (whole, again)), strict=True):
        np.testing.assert_array_equal(a, b)
