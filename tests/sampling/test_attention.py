"""Decode attention: every implementation against the definition, and where each may run.

The Pallas kernels cannot run on a CPU as such: the GPU kernel is run by its interpreter, the TPU
kernel by its own, and both are lowered for their platform.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import AttentionRequest, refusals
from thinksafe_jax.sampling import choose, table_pages
from thinksafe_jax.sampling.attention import IMPLEMENTATIONS, TABLE_TOKENS, attend_queries
from thinksafe_jax.sampling.attention._kernels import PIECE_TOKENS
from thinksafe_jax.sampling.attention.pallas_gpu import PART_TOKENS
from thinksafe_jax.sampling.attention.pallas_gpu import paged_attention as gpu_paged_attention
from thinksafe_jax.sampling.attention.pallas_gpu import several_queries as gpu_several_queries
from thinksafe_jax.sampling.attention.pallas_tpu import tpu_paged_attention
from thinksafe_jax.sampling.attention.pallas_tpu_queries import (
    several_queries as tpu_several_queries,
)
from thinksafe_jax.sampling.attention.xla import BLOCK_TOKENS, paged_attention
from thinksafe_jax.sampling.attention.xla_one_walk import one_walk
from thinksafe_jax.sampling.kv_cache import KvPages

DEPRECATED = pytest.mark.filterwarnings(  # by JAX 0.11
    "ignore:The Pallas Triton backend is deprecated:DeprecationWarning"
)
V5E = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice("TPU v5 lite", 1, "tpu"))
H200 = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))
LENGTHS = [1, 16, 17, 129, 700, 512]


def inputs(
    heads=8, kv_heads=2, head_dim=32, page_size=16, dtype=jnp.float32, lengths=tuple(LENGTHS)
):
    """Random pools; pages in random order, unused entries of the table 0."""
    rng = np.random.default_rng(0)
    batch = len(lengths)
    width = -(-max(lengths) // (page_size * table_pages(page_size))) * table_pages(page_size)
    order = rng.permutation(batch * width) + 1
    table = np.zeros((batch, width), np.int32)
    for row, length in enumerate(lengths):
        used = -(-length // page_size)
        table[row, :used], order = order[:used], order[used:]
    shape = (kv_heads, batch * width + 1, page_size, head_dim)
    pages = KvPages(*(jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2)))
    q = jnp.asarray(rng.normal(size=(batch, heads, head_dim)), dtype)
    return q, pages, jnp.asarray(table), jnp.asarray(lengths, jnp.int32)


def paired(pages):
    """The same pages with each value behind its key."""
    return KvPages(jnp.concatenate([pages.keys, pages.values], axis=-1))


def by_definition(q, pages, table, lengths):
    """Softmax over each slot's own tokens, in float64."""
    keys, values = (np.asarray(x, np.float64) for x in (pages.keys, pages.values))
    kv_heads, _, _, width = keys.shape
    out = np.zeros(q.shape)
    for row, length in enumerate(np.asarray(lengths)):
        k, v = (x[:, table[row]].reshape(kv_heads, -1, width)[:, :length] for x in (keys, values))
        for head in range(q.shape[1]):
            group = head // (q.shape[1] // kv_heads)
            scores = k[group] @ np.asarray(q[row, head], np.float64) / np.sqrt(width)
            weights = np.exp(scores - scores.max())
            out[row, head] = weights @ v[group] / weights.sum()
    return out


@pytest.mark.slow
@pytest.mark.parametrize("page_size", [16, 64, 128])
def test_xla_equals_the_definition(page_size):
    case = inputs(page_size=page_size)
    for attend in (paged_attention, one_walk):
        np.testing.assert_allclose(jax.jit(attend)(*case), by_definition(*case), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("page_size", [12, 20])
def test_a_row_that_fills_its_table_sees_its_own_last_tokens(page_size):
    """Blocks of such pages do not divide the table."""
    full = page_size * table_pages(page_size)
    case = inputs(page_size=page_size, lengths=(full, full - 1, 5))
    for attend in (paged_attention, one_walk):
        np.testing.assert_allclose(jax.jit(attend)(*case), by_definition(*case), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xla", "xla-one-walk", "one query at a time"])
def test_several_queries_of_a_slot_see_what_lies_before_each(name, monkeypatch):
    """Four queries at the ends of each slot: as four slots that have the same pages."""
    queries = 4
    q, pages, table, lengths = inputs()
    several = jnp.stack([jnp.roll(q, n, axis=0) for n in range(queries)], axis=1)
    ends = jnp.maximum(lengths[:, None] - jnp.arange(queries, dtype=jnp.int32)[None, ::-1], 1)
    alone = dataclasses.replace(IMPLEMENTATIONS["xla"], several=None)  # as the Pallas kernels
    table_of = {**IMPLEMENTATIONS, "one query at a time": alone}
    monkeypatch.setattr("thinksafe_jax.sampling.attention.IMPLEMENTATIONS", table_of)
    out = jax.jit(attend_queries, static_argnums=0)(name, several, pages, table, ends)
    for n in range(queries):
        expected = by_definition(several[:, n], pages, table, ends[:, n])
        np.testing.assert_allclose(out[:, n], expected, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "page_size"), [(1, 64), (3, 16)])
def test_tpu_kernel_of_several_queries_equals_the_definition_in_the_interpreter(queries, page_size):
    """Memory that nothing was written to is NaN there, as it may be on a chip."""
    q, pages, table, lengths = inputs(head_dim=128, page_size=page_size)
    several = jnp.stack([jnp.roll(q, n, axis=0) for n in range(queries)], axis=1)
    ends = jnp.maximum(lengths[:, None] - jnp.arange(queries, dtype=jnp.int32)[None, ::-1], 1)
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan")):
        out = tpu_several_queries(several, pages, table, ends)
    for n in range(queries):
        expected = by_definition(several[:, n], pages, table, ends[:, n])
        np.testing.assert_allclose(out[:, n], expected, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("queries", [1, 3])
def test_values_behind_their_keys_are_read_alike(queries):
    """Head_dim 64 on a TPU, by XLA and by the kernel in the interpreter."""
    q, pages, table, lengths = inputs(head_dim=64, page_size=64)
    several = jnp.stack([jnp.roll(q, n, axis=0) for n in range(queries)], axis=1)
    ends = jnp.maximum(lengths[:, None] - jnp.arange(queries, dtype=jnp.int32)[None, ::-1], 1)
    attend = jax.jit(partial(attend_queries, "xla"))
    by_xla = attend(several, paired(pages), table, ends)
    np.testing.assert_array_equal(by_xla, attend(several, pages, table, ends))
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan")):
        out = tpu_several_queries(several, paired(pages), table, ends)
    for n in range(queries):
        expected = by_definition(several[:, n], pages, table, ends[:, n])
        np.testing.assert_allclose(out[:, n], expected, atol=2e-6)


@pytest.mark.slow
@DEPRECATED
@pytest.mark.parametrize(("queries", "page_size"), [(1, 16), (3, 128)])
def test_gpu_kernel_equals_the_definition_in_the_interpreter(queries, page_size, monkeypatch):
    """Parts of 128 tokens, so that slots have one, several, and a whole number of them."""
    monkeypatch.setattr("thinksafe_jax.sampling.attention.pallas_gpu.PART_TOKENS", 128)
    q, pages, table, lengths = inputs(page_size=page_size)
    several = jnp.stack([jnp.roll(q, n, axis=0) for n in range(queries)], axis=1)
    ends = jnp.maximum(lengths[:, None] - jnp.arange(queries, dtype=jnp.int32)[None, ::-1], 1)
    out = jax.jit(partial(gpu_several_queries, interpret=True))(several, pages, table, ends)
    for n in range(queries):
        expected = by_definition(several[:, n], pages, table, ends[:, n])
        np.testing.assert_allclose(out[:, n], expected, atol=2e-6)


@pytest.mark.slow
@DEPRECATED
@pytest.mark.parametrize("heads", [16, 14, 24])
def test_kernels_lower_for_their_platform(heads):
    """Real shapes: 2, 7 and 3 query heads to a KV head, pages of 64 tokens, bfloat16."""
    kv_heads = {16: 8, 14: 2, 24: 8}[heads]
    case = jax.eval_shape(
        lambda: inputs(heads, kv_heads, head_dim=128, page_size=64, dtype=jnp.bfloat16)
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        tpu = export.export(jax.jit(tpu_paged_attention), platforms=["tpu"])(*case)
        assert "tpu_custom_call" in tpu.mlir_module()
        several = jax.jit(lambda q, *rest: tpu_several_queries(q[:, None], *rest))
        with jax.sharding.use_abstract_mesh(V5E):
            lengths = jax.ShapeDtypeStruct((len(LENGTHS), 1), jnp.int32)
            queries = several.trace(*case[:3], lengths).lower(lowering_platforms=("tpu",))
        assert "tpu_custom_call" in queries.as_text()
        with jax.sharding.use_abstract_mesh(H200):
            gpu = jax.jit(gpu_paged_attention).trace(*case).lower(lowering_platforms=("cuda",))
        assert "triton" in gpu.as_text()


def test_a_head_of_half_a_row_of_lanes_has_a_kernel_on_tpus():
    """Values lie behind their keys then; in int8, and for other narrow heads, they do not."""
    request = AttentionRequest("tpu", 64, page_size=64, kv_dtype="bfloat16")
    assert choose(request) == "pallas-tpu-queries"
    for change in ({"kv_dtype": "int8", "page_size": 128}, {"head_dim": 32}, {"head_dim": 96}):
        assert choose(dataclasses.replace(request, **change)) == "xla"


def test_the_table_of_implementations_says_why():
    def request(platform, head_dim=128, page_size=64):
        return AttentionRequest(platform, head_dim, page_size=page_size)

    assert [choose(request(name)) for name in ("gpu", "tpu", "cpu")] == [
        "pallas-gpu", "pallas-tpu", "xla"
    ]  # fmt: skip
    assert refusals(IMPLEMENTATIONS, request("gpu")) == {
        "pallas-gpu": None,
        "pallas-tpu": "a TPU kernel, the platform is gpu",
        "pallas-tpu-queries": "a TPU kernel, the platform is gpu",
        "xla": None,
        "xla-one-walk": None,
    }
    odd = refusals(IMPLEMENTATIONS, request("gpu", 80, 24))
    assert "power of 2 from 16 to 256, this model has 80" in (odd["pallas-gpu"] or "")
    with pytest.raises(
        ConfigError, match=r"pallas-tpu cannot run here: .*platform is cpu; set auto"
    ):
        choose(request("cpu"), "pallas-tpu")
    with pytest.raises(
        ConfigError, match=r"engine\.attention 'palas-gpu'.*did you mean pallas-gpu"
    ):
        choose(request("gpu"), "palas-gpu")


def test_a_table_holds_whole_pieces_of_every_implementation():
    assert TABLE_TOKENS % PIECE_TOKENS == TABLE_TOKENS % BLOCK_TOKENS == 0
    assert PART_TOKENS % TABLE_TOKENS == 0  # the table may end within a part
