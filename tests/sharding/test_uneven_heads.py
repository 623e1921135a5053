"""Query heads that do not divide over a tensor axis lie on the part that the KV heads have."""

import math

import jax
import numpy as np
import pytest

from tests.support import tiny_config
from tests.training import kit
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import init_params
from thinksafe_jax.sampling import Engine, Request
from thinksafe_jax.sharding import ModelMesh, load_mesh, sharding_problems, sharding_warnings
from thinksafe_jax.training import TrainingMesh
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import make_gradient

# 7 queries for each KV head, as R1-Distill-Qwen-7B's 28 and 4; tensor 4 is kv 2 x group 2
CFG = tiny_config(vocab_size=208, num_heads=14, num_kv_heads=2)
SHAPE = EngineConfig(slots=2, window=4, page_size=16, pool_tokens=1024, max_length=64)


def test_they_lie_with_the_kv_heads_and_all_else_on_the_whole_axis():
    phase = load_mesh("cpu-8").generate.for_model(CFG)
    assert phase.axes == {"replica": 2, "kv": 2, "group": 2}
    assert phase.rules["heads"] == phase.rules["kv_heads"] == ("kv",)
    assert phase.rules["mlp"] == phase.rules["vocab"] == ("kv", "group")
    assert sharding_problems(CFG, phase) == []
    (warning,) = sharding_warnings(CFG, phase, 4)
    # 2 layers of q, k, v, o: 7 query heads and a KV head a device, 64 wide
    assert warning == (
        f"14 query heads on 4 tensor-parallel devices: they are cut 2 ways, so weights of "
        f"attention ({4 * 2 * 64 * 16 * (7 + 1 + 1 + 7):,} bytes a device) and cache are held 2 "
        "times, and attention is computed 2 times"
    )


def sample(mesh: ModelMesh | None):
    rng = np.random.default_rng(3)
    sampling = SamplingConfig(1.0, 0.95, 20, 0.0, 8)
    requests = [
        Request(f"row-{n}", rng.integers(1, CFG.vocab_size, size).tolist(), sampling)
        for n, size in enumerate([1, 5, 17, 30])
    ]
    params = init_params(CFG, jax.random.key(0), scale=0.2)
    engine = Engine(CFG, params, SHAPE, mesh=mesh, eos_ids=(0,))
    return {done.id: done for done in engine.generate(requests)}


@pytest.mark.slow
def test_the_sampler_gives_the_text_of_one_device():
    alone, found = sample(None), sample(ModelMesh.of_sizes(CFG, tensor=4))
    for name, done in found.items():
        assert done.token_ids == alone[name].token_ids
        np.testing.assert_allclose(done.logprobs, alone[name].logprobs, atol=1e-3)


@pytest.mark.slow
def test_training_gives_the_gradients_of_one_device():
    axes = {"data": 1, "fsdp": 2, "tensor": 4}
    mesh = TrainingMesh.of_phase(load_mesh("cpu-8").train.with_axes(axes), CFG)
    assert mesh.phase.rules["heads"] == ("kv",)
    (totals, grads), (expected, weights) = gradient_of(mesh), gradient_of(None)
    for name, value in totals.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5)
    for name, value in grads.items():
        one, other = weights[name].ravel(), value.ravel()
        assert one @ other / math.sqrt((one @ one) * (other @ other)) >= 0.9999999
        np.testing.assert_allclose(other, one, rtol=0, atol=2e-5 * np.abs(one).max())


def gradient_of(mesh: TrainingMesh | None):
    config = kit.settings(lora_targets=["q_proj", "o_proj"], lora_dropout=0.0)
    setup, base = kit.setup(config, CFG, mesh), init_params(CFG, jax.random.key(1), scale=0.3)
    trainable = jax.tree.map(
        lambda x: 0.1 * jax.random.normal(jax.random.key(len(x.shape)), x.shape),
        setup.abstract_trainable(),
    )
    batch = kit.packed(kit.rows(6), Layout(1, 4, 64), setup)
    if mesh is not None:
        trainable = jax.device_put(trainable, setup.trainable_shardings())
        base, batch = jax.device_put(base, mesh.param_shardings()), mesh.feed(batch)
    totals, grads = jax.jit(make_gradient(setup))(trainable, base, batch, jax.random.key(1))
    return kit.flat(totals), kit.flat(grads)
