"""Keys and values in int8: what is stored, how it is read, and that the contract holds."""

import dataclasses
import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.sampling.kit import GREEDY, RANDOM, engine, requests, run
from tests.sampling.test_attention import (
    DEPRECATED,
    H200,
    LENGTHS,
    V5E,
    by_definition,
    inputs,
)
from tests.support import save_tiny, tiny_config
from thinksafe_jax.config import EngineConfig
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import (
    AttentionRequest,
    LoraConfig,
    causal_attention,
    forward,
    load_config,
    logits,
    unstack_layers,
)
from thinksafe_jax.sampling import Engine, KvCache, choose
from thinksafe_jax.sampling.attention import attend_queries
from thinksafe_jax.sampling.attention.pallas_gpu import paged_attention as gpu_paged_attention
from thinksafe_jax.sampling.attention.pallas_tpu_queries import several_queries
from thinksafe_jax.sampling.kv_cache import KvPages
from thinksafe_jax.sharding import ModelMesh
from thinksafe_jax.weights import load_params

SMALL = EngineConfig(
    slots=4, window=4, page_size=16, pool_tokens=2048, max_length=256, kv_dtype="int8"
)


def rounded(x):
    """The oracle: (int8, f32 scales) of each vector of the last axis, by numpy."""
    x = np.asarray(x, np.float32)
    scale = np.abs(x).max(axis=-1) * np.float32(1 / 127)
    divisor = np.where(scale > 0, scale, np.float32(1))[..., None]
    return np.round(x / divisor).astype(np.int8), scale


def read_back(x):
    stored, scale = rounded(x)
    return stored.astype(np.float32) * scale[..., None]


def in_int8(pages):
    """Pages of floats as they are stored in int8."""
    (keys, key_scales), (values, value_scales) = rounded(pages.keys), rounded(pages.values)
    scales = np.stack([key_scales, value_scales], axis=2)
    return KvPages(*(jnp.asarray(x) for x in (keys, values, scales)))


def in_floats(pages):
    return KvPages(*(jnp.asarray(read_back(x)) for x in (pages.keys, pages.values)))


def test_what_is_stored_is_what_numpy_rounds():
    rng = np.random.default_rng(0)
    k, v = (rng.normal(size=(1, 16, 2, 16)).astype(np.float32) for _ in range(2))
    k[0, 3, 1], k[0, 4] = 0, 1e4  # a vector of zeros has no scale; one of equals is exact
    pages = KvCache.new(tiny_config(), 4, 8, "int8").layers[0]
    table = jnp.asarray([[3, 1]], jnp.int32)
    at_once = pages.write_prompts(jnp.asarray(k), jnp.asarray(v), table)
    for queries in (1, 4):
        by_step = pages
        for n in range(0, 16, queries):
            steps = np.arange(n, n + queries, dtype=np.int32)[None]
            new = (jnp.asarray(x[:, n : n + queries]) for x in (k, v))
            by_step = by_step.write_tokens(*new, table[:, steps[0] // 8], jnp.asarray(steps % 8))
        for a, b in zip(jax.tree.leaves(at_once), jax.tree.leaves(by_step), strict=True):
            np.testing.assert_array_equal(a, b)
    for row, (x, stored) in enumerate([(k, at_once.keys), (v, at_once.values)]):
        want, scale = rounded(x[0])  # [T, K, H] and [T, K]
        held = np.asarray(stored)[:, [3, 1]].reshape(2, 16, 16)
        np.testing.assert_array_equal(held, want.swapaxes(0, 1))
        scales = np.asarray(at_once.scales)[:, [3, 1], row].reshape(2, 16)
        np.testing.assert_array_equal(scales, scale.T)
        assert not np.asarray(stored)[:, [0, 2]].any()
        read = at_once.as_read(jnp.asarray(x[0]))
        np.testing.assert_array_equal(read, read_back(x[0]))
        assert (np.abs(read - x[0]) <= scale[..., None] * 0.5001).all()


@pytest.mark.parametrize(("head_dim", "share"), [(128, 0.516), (64, 0.532)])
def test_a_token_takes_half_the_bytes(head_dim, share):
    cfg = tiny_config(head_dim=head_dim)
    of_model = KvCache.bytes_per_token(cfg, "bfloat16")
    assert KvCache.bytes_per_token(cfg, "int8") / of_model == pytest.approx(share, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xla", "xla-one-walk"])
def test_xla_equals_the_definition_on_what_is_read_back(name):
    q, pages, table, lengths = inputs()
    several = jnp.stack([q, jnp.roll(q, 1, axis=0)], axis=1)
    ends = jnp.maximum(lengths[:, None] - jnp.asarray([[1, 0]], jnp.int32), 1)
    out = jax.jit(attend_queries, static_argnums=0)(name, several, in_int8(pages), table, ends)
    for n in range(2):
        want = by_definition(several[:, n], in_floats(pages), table, ends[:, n])
        np.testing.assert_allclose(out[:, n], want, atol=1e-5)


@pytest.mark.slow
def test_the_tpu_kernel_equals_the_definition_in_the_interpreter():
    """Memory that nothing was written to is NaN there, as it may be on a chip."""
    q, pages, table, lengths = inputs(head_dim=128, page_size=128)
    several = jnp.stack([q, jnp.roll(q, 1, axis=0)], axis=1)
    ends = jnp.maximum(lengths[:, None] - jnp.asarray([[1, 0]], jnp.int32), 1)
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan")):
        out = several_queries(several, in_int8(pages), table, ends)
    for n in range(2):
        want = by_definition(several[:, n], in_floats(pages), table, ends[:, n])
        np.testing.assert_allclose(out[:, n], want, atol=1e-5)


@pytest.mark.slow
@DEPRECATED
def test_the_gpu_kernel_equals_the_definition_in_the_interpreter():
    """What lies behind a length is another row's, and may be NaN."""
    q, pages, table, lengths = inputs()
    stored = in_int8(pages)
    scales = np.array(stored.scales)
    for row, length in enumerate(LENGTHS):
        page, offset = divmod(length, pages.page_size)
        if offset:
            scales[:, table[row, page], :, offset:] = np.nan
    stored = dataclasses.replace(stored, scales=jnp.asarray(scales))
    out = gpu_paged_attention(q, stored, table, lengths, interpret=True)
    np.testing.assert_allclose(out, by_definition(q, in_floats(pages), table, lengths), atol=2e-5)


@pytest.mark.slow
@DEPRECATED
def test_kernels_lower_for_their_platform():
    """Real shapes: two query heads to a KV head, pages of 128 tokens, queries in bfloat16."""
    q, pages, table, lengths = jax.eval_shape(
        lambda: inputs(16, 8, head_dim=128, page_size=128, dtype=jnp.bfloat16)
    )
    tokens = jax.ShapeDtypeStruct(pages.keys.shape, jnp.int8)
    scales = jax.ShapeDtypeStruct((*pages.keys.shape[:2], 2, 128), jnp.float32)
    pages = KvPages(tokens, tokens, scales)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        with jax.sharding.use_abstract_mesh(V5E):
            ends = jax.ShapeDtypeStruct((len(LENGTHS), 1), jnp.int32)
            several = jax.jit(lambda q, *rest: several_queries(q[:, None], *rest))
            tpu = several.trace(q, pages, table, ends).lower(lowering_platforms=("tpu",))
        assert "tpu_custom_call" in tpu.as_text()
        with jax.sharding.use_abstract_mesh(H200):
            traced = jax.jit(gpu_paged_attention).trace(q, pages, table, lengths)
            assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_who_reads_int8_and_who_says_why_not(caplog):
    def request(platform, page_size):
        return AttentionRequest(platform, 128, page_size=page_size, kv_dtype="int8")

    assert choose(request("tpu", 128)) == "pallas-tpu-queries"
    assert choose(request("gpu", 64)) == "pallas-gpu"
    with pytest.raises(ConfigError, match=r"pallas-tpu cannot run here: .* scales of the"):
        choose(request("tpu", 128), "pallas-tpu")
    with pytest.raises(ConfigError, match=r"needs engine\.page_size 128, .* it is 64; set auto"):
        choose(request("tpu", 64), "pallas-tpu-queries")
    with caplog.at_level(logging.WARNING):
        assert choose(request("cpu", 64)) == "xla" and not caplog.records
        assert choose(request("tpu", 64)) == "xla"
    assert "needs engine.page_size 128" in caplog.text


@pytest.fixture(scope="module")
def base(model):
    """Completions of an engine that stores int8."""
    return run(engine(model, kv_dtype="int8"), requests(12))


def tokens(completions):
    return {name: done.token_ids for name, done in completions.items()}


@pytest.mark.slow
def test_log_probabilities_are_those_of_the_model_with_rounded_keys_and_values(model, base):
    """Of the whole text at once: prefill and decode both attend to what is read back."""
    cfg, params, _ = model
    apart = unstack_layers(params)

    def attention(q, k, v, segments):
        return causal_attention(q, jnp.asarray(read_back(k)), jnp.asarray(read_back(v)), segments)

    request = requests(12)[3]
    done = base[request.id]
    ids = np.asarray([[*request.prompt_ids, *done.token_ids]], np.int32)
    steps = np.arange(ids.shape[1], dtype=np.int32)[None]
    gaps = {}
    for name, how in (("rounded", attention), ("model", causal_attention)):
        hidden = forward(apart, cfg, ids, steps, np.ones_like(ids), attention=how)
        scores = jax.nn.log_softmax(logits(params, cfg, hidden)[0], axis=-1)
        start = len(request.prompt_ids) - 1
        wanted = [float(scores[start + n, t]) for n, t in enumerate(done.token_ids)]
        gaps[name] = np.abs(np.asarray(done.logprobs) - wanted).max()
    assert gaps["rounded"] < 2e-4 and gaps["model"] > 5 * gaps["rounded"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        {"window": 7, "slots": 7, "page_size": 32, "pool_tokens": 160},
        {"draft": "always", "draft_tokens": 2},
    ],
    ids=["window, slots, page and preemptions", "drafts"],
)
def test_tokens_do_not_depend_on_the_engines_shape(model, base, shape):
    batch = requests(12)
    sampler = engine(model, kv_dtype="int8", **shape)
    assert tokens(run(sampler, batch[::-1])) == tokens(base)
    assert "pool_tokens" not in shape or sampler.stats.preemptions > 0


@pytest.mark.slow
def test_an_adapter_apart_with_b_zero_is_the_base(model, base):
    cfg, params, _ = model
    sampler = Engine(cfg, params, SMALL, eos_ids=(0,), lora=LoraConfig(r=2))
    assert run(sampler, requests(12)) == base


@pytest.mark.slow
def test_the_text_is_the_same_on_a_mesh(tmp_path):
    """Scales lie with their heads: two replicas of four devices, which hold two KV heads twice."""
    save_tiny("qwen3", tmp_path, num_attention_heads=8, num_key_value_heads=2, vocab_size=128)
    cfg = load_config(tmp_path)
    params = load_params(tmp_path, cfg, jnp.float32)
    batch = [replace(r, sampling=(GREEDY, RANDOM)[n % 2]) for n, r in enumerate(requests(8))]
    config = replace(SMALL, replicas="together")
    mesh = ModelMesh.of_sizes(cfg, replicas=2, tensor=4)
    several = Engine(cfg, params, config, mesh=mesh, eos_ids=(0,))
    assert tokens(run(several, batch)) == tokens(run(engine((cfg, params), kv_dtype="int8"), batch))
