"""Sampler and trainer are one model: the same log-probabilities, the same arrays where they may.

What is sampled is scored by the trainer, the trainer takes a step, and the sampler hears of it.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.sampling.kit import requests
from tests.support import tiny_config
from tests.training import kit
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import forward, init_params, logits, unstack_layers
from thinksafe_jax.sampling import Engine
from thinksafe_jax.sharding import ModelMesh, load_mesh
from thinksafe_jax.training import (
    SampledRow,
    TrainingMesh,
    TrainingSetup,
    logprob_gap,
    make_row_logprobs,
    make_step,
)
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import init_state, make_gradient, state_shardings

pytestmark = pytest.mark.slow

CFG = tiny_config(vocab_size=208, num_heads=4)
ENGINE = EngineConfig(slots=8, window=4, page_size=16, pool_tokens=4096, replicas="together")
SETTINGS = kit.settings(
    batch_size=8, micro_batch_size=8, lora_dropout=0.0, learning_rate=1e-3, warmup_ratio=0.0
)
# GRPO's, OPD's, R1's (whose top-p keeps more than 64 tokens here), the model itself
SAMPLINGS = [
    SamplingConfig(0.7, 1.0, 0, 0.0, 12),
    SamplingConfig(0.6, 0.95, 20, 0.0, 12),
    SamplingConfig(1.5, 0.95, 0, 0.0, 12),
    SamplingConfig(1.0, 1.0, 0, 0.0, 12),
]
MESHES = {"one device": None, "data 4": {"data": 4}, "fsdp 2 x tensor 2": {"fsdp": 2, "tensor": 2}}


def meshes(axes):
    """(train mesh, generation mesh on the same devices)."""
    if axes is None:
        return None, None
    sizes = {"data": 1, "fsdp": 1, "tensor": 1} | axes
    train = TrainingMesh.of_phase(load_mesh("cpu-8").train.with_axes(sizes), CFG)
    return train, ModelMesh.of_sizes(CFG, replicas=4 // sizes["tensor"], tensor=sizes["tensor"])


def buffers(tree):
    shards = [leaf.addressable_shards for leaf in jax.tree.leaves(tree)]
    return {s.data.unsafe_buffer_pointer() for leaf in shards for s in leaf}


@pytest.mark.parametrize("where", MESHES)
def test_every_token_has_one_log_probability_and_a_step_shows(where):
    mesh, generation = meshes(MESHES[where])
    setup = TrainingSetup(CFG, SETTINGS, mesh)
    base = unstack_layers(init_params(CFG, jax.random.key(1), scale=0.2))
    state = init_state(trained(setup), setup)
    if mesh is not None:
        base = mesh.put(base, mesh.shardings_like(base))
        state = mesh.put(state, state_shardings(setup))
    engine = Engine(
        CFG, base, ENGINE, mesh=generation, eos_ids=(0,), lora=setup.lora, sampling_logprobs=True
    )
    held = buffers(engine._devices[0].params)
    assert (buffers(base) >= held) == (where != "fsdp 2 x tensor 2")  # where they are cut alike
    score = make_row_logprobs(setup)
    asked = [
        replace(request, sampling=sampling)
        for request, sampling in zip(requests(8), SAMPLINGS * 2, strict=True)
    ]

    def rollouts():
        """Rows with the sampler's log-probabilities."""
        engine.update_adapter(state.trainable)
        done = {c.id: c.drawn for c in engine.generate(asked)}
        rows = [SampledRow(r.id, r.prompt_ids, done[r.id].token_ids, r.sampling) for r in asked]
        return rows, [done[row.id].sampling_logprobs for row in rows]

    def gap(rows, sampled):
        return logprob_gap(rows, sampled, score(state.trainable, base, rows))

    rows, sampled = rollouts()
    assert gap(rows, sampled).largest <= 1e-4
    batch = kit.packed(kit.rows(8), Layout(passes=1, sequences=8, length=32), setup)
    batch = batch if mesh is None else mesh.feed(batch)
    state, _ = make_step(setup, 10)(state, base, batch, jax.random.key(1))
    stale = gap(rows, sampled)  # the sampler's adapter is now one step old
    assert stale.largest > 1e-3 and stale.mean > 1e-4
    assert stale.tokens == sum(len(row.token_ids) for row in rows)
    fresh = gap(*rollouts())
    assert fresh.largest <= 1e-4 and fresh.mean <= 1e-5


def trained(setup):
    """An adapter that says something."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), setup.abstract_trainable()
    )


def test_both_columns_are_what_a_softmax_gives():
    """Without an adapter, on rows of other lengths than a call has."""
    setup = TrainingSetup(CFG, SETTINGS)
    base = init_params(CFG, jax.random.key(1), scale=0.2)
    rng = np.random.default_rng(4)
    rows = [
        SampledRow(str(n), rng.integers(0, 208, n + 1), rng.integers(0, 208, 70 - n), sampling)
        for n, sampling in enumerate(SAMPLINGS)
    ]
    off = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), setup.abstract_trainable())
    for row, scores in zip(rows, make_row_logprobs(setup)(off, base, rows), strict=True):
        ids = np.array([[*row.prompt_ids, *row.token_ids]], np.int32)
        places = np.arange(ids.shape[1], dtype=np.int32)[None]
        hidden = forward(base, CFG, ids, places, np.ones_like(ids))
        exact = np.asarray(logits(base, CFG, hidden), np.float64)[0]
        exact = exact[len(row.prompt_ids) - 1 : -1]
        for place, (token, values) in enumerate(zip(row.token_ids, scores, strict=True)):
            law = np.log(softmax(exact[place]))
            assert values[0] == pytest.approx(law[token], abs=1e-4)
            if row.sampling.top_p == 1:
                law = np.log(softmax(exact[place] / row.sampling.temperature))
                assert values[1] == pytest.approx(law[token], abs=1e-4)


def softmax(x):
    mass = np.exp(x - x.max())
    return mass / mass.sum()


def test_the_gap_names_the_row_and_takes_no_nan_for_a_small_one():
    sampling = SAMPLINGS[0]
    rows = [SampledRow(name, [1], [1, 2], sampling) for name in ("a", "b", "c")]
    trained = [np.array([[0, -1], [0, -2]], np.float32)] * 3
    gap = logprob_gap(rows, [[-1, -2], [-1, -2.5], [-1.25, -2]], trained)
    assert (gap.mean, gap.largest, gap.row, gap.tokens) == (0.125, 0.5, "b", 6)
    broken = logprob_gap(rows, [[-1, -2], [-1, -2.5], [-1, float("nan")]], trained)
    assert np.isnan(broken.largest) and np.isnan(broken.mean) and broken.row == "c"


@pytest.mark.parametrize("remat", ["none", "attention"])
def test_gradients_over_layers_apart_are_those_over_stacked_ones(remat):
    setup = TrainingSetup(CFG, replace(SETTINGS, remat=remat, objective="ce+kl"))
    base, adapter = init_params(CFG, jax.random.key(1), scale=0.2), trained(setup)
    rows = kit.rows(8, objective="ce+kl")
    batch = kit.packed(rows, Layout(passes=2, sequences=4, length=32), setup)
    gradient = jax.jit(make_gradient(setup))
    stacked = gradient(adapter, base, batch, jax.random.key(2))
    apart = gradient(adapter, unstack_layers(base), batch, jax.random.key(2))
    for a, b in zip(jax.tree.leaves(apart), jax.tree.leaves(stacked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * float(np.abs(b).max()))
