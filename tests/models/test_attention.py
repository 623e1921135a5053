"""One attention, five implementations: equal where they run, refused with a reason where not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh

from thinksafe_jax.models import AttentionRequest, causal_attention, first_to_run, refusals
from thinksafe_jax.models.attention import IMPLEMENTATIONS, flash
from thinksafe_jax.models.attention.blocks import block_attention
from thinksafe_jax.models.attention.flash import flash_attention
from thinksafe_jax.models.attention.plain import plain_attention

pytestmark = pytest.mark.slow


def inputs(lengths, total, heads=4, kv_heads=2, head_dim=8, dtype=jnp.float32):
    """Random q, k, v and segment ids: two sequences, the second packed the other way round."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, total, n, head_dim) for n in (heads, kv_heads, kv_heads)]
    qkv = [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]
    segments = np.zeros((2, total), np.int32)
    for row, order in enumerate((lengths, lengths[::-1])):
        ids = np.repeat(np.arange(1, len(order) + 1), order)
        segments[row, : len(ids)] = ids
    return *qkv, jnp.asarray(segments)


def value_and_gradients(attention, q, k, v, segments):
    """Of a sum over the tokens that are no padding."""
    real = (segments > 0)[..., None, None]
    mix = jnp.cos(jnp.arange(q.size).reshape(q.shape))

    def total(q, k, v):
        return jnp.sum(jnp.where(real, attention(q, k, v, segments) * mix, 0.0))

    return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, k, v)


@pytest.mark.parametrize("lengths", [[64], [5, 30, 1, 20], [16, 16, 16], [3]])
def test_blocks_equal_one_score_matrix(lengths):
    """Rows within a block, over several, at their edges, and blocks of padding alone."""
    args = inputs(lengths, 64)
    want = value_and_gradients(plain_attention, *args)
    have = value_and_gradients(lambda *a: block_attention(*a, block=16), *args)
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("lengths", "blocks"),
    [([64, 30, 1, 90, 5], (64, 64)), ([150], (32, 64)), ([90, 100], (64, 32))],
)
def test_the_kernel_for_gpus_equals_one_score_matrix_in_the_interpreter(
    lengths, blocks, monkeypatch
):
    """Rows within its blocks, over several, at their edges; a length that no block divides.

    Blocks (queries, keys) of more keys than queries once lost the last block of keys.
    """
    for kernel in ("_FORWARD", "_D_QUERIES", "_D_KEYS"):
        monkeypatch.setattr(flash, kernel, flash._Blocks(*blocks, 4, 2))
    args = inputs(lengths, 200, head_dim=16)
    want = value_and_gradients(plain_attention, *args)
    have = value_and_gradients(lambda *a: flash_attention(*a, interpret=True), *args)
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_a_length_that_is_no_multiple_of_the_block():
    args = inputs([20, 17], 41)
    want = value_and_gradients(plain_attention, *args)
    have = value_and_gradients(lambda *a: block_attention(*a, block=16), *args)
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_bfloat16_stays_near_float32():
    q, k, v, segments = inputs([20, 17], 64)
    want = block_attention(q, k, v, segments, block=16)
    low = (x.astype(jnp.bfloat16) for x in (q, k, v))
    have = block_attention(*low, segments, block=16)
    assert have.dtype == jnp.bfloat16
    np.testing.assert_allclose(have[:, :37].astype(jnp.float32), want[:, :37], atol=0.05)


def test_packed_rows_do_not_see_each_other():
    q, k, v, segments = inputs([20, 17], 64)
    before = block_attention(q, k, v, segments, block=16)
    changed = v.at[0, :20].set(jnp.nan)  # the first row of the first sequence
    after = block_attention(q, k, changed, segments, block=16)
    assert jnp.isnan(after[0, :20]).all()
    # NaN x 0 is NaN: blocks that hold the other row as well would spread it, if they were read
    np.testing.assert_array_equal(after[0, 48:], before[0, 48:])
    np.testing.assert_array_equal(after[1], before[1])


def test_at_16384_tokens_nothing_quadratic_exists_forward_or_backward():
    length = 16384
    q = jax.ShapeDtypeStruct((1, length, 2, 64), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((1, length, 1, 64), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def loss(q, k, v, segments):
        return jnp.sum(causal_attention(q, k, v, segments).astype(jnp.float32))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k, segments).compile()
    largest = max(
        np.prod([int(n) for n in dims.split(",")])
        for dims in re.findall(r"[a-z]\d+\[([\d,]+)\]", compiled.as_text())
    )
    assert largest <= 4 * length * 2 * 64  # some inputs joined
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20


@pytest.mark.parametrize(
    ("shape", "first", "reasons"),
    [
        (("cpu", 4096, 128, "float32"), "blocks", {"splash": "not cpu", "cudnn": "not cpu"}),
        (("cpu", 200, 128, "float32"), "plain", {"blocks": "length 200 is one block"}),
        (("tpu", 4096, 128, "bfloat16"), "splash", {"cudnn": "not tpu"}),
        (("tpu", 4100, 128, "bfloat16"), "blocks", {"splash": "no multiple of 128"}),
        (("tpu", 4096, 64, "bfloat16"), "blocks", {"splash": "head_dim 64"}),
        (("gpu", 16384, 128, "bfloat16"), "flash", {"splash": "not gpu"}),
        (("gpu", 4096, 80, "bfloat16"), "cudnn", {"flash": "a power of 2 from 16 to 128"}),
        (("gpu", 4096, 256, "bfloat16"), "blocks", {"flash": "from 16 to 128, this model has 256"}),
        (("gpu", 4096, 128, "float32"), "blocks", {"flash": "not float32", "cudnn": "not float32"}),
        (("gpu", 16384, 80, "bfloat16"), "blocks", {"cudnn": "16384 x 16384 is too large"}),
    ],
)
def test_the_table_says_which_runs_and_why_the_others_do_not(shape, first, reasons):
    platform, length, head_dim, dtype = shape
    request = AttentionRequest(platform, head_dim, dtype, length)
    assert first_to_run(IMPLEMENTATIONS, request) == first
    table = refusals(IMPLEMENTATIONS, request)
    assert list(table) == ["flash", "splash", "cudnn", "blocks", "plain"]
    for name, words in reasons.items():
        assert words in table[name]


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_the_kernel_for_gpus_lowers_forward_and_backward():
    q = jax.ShapeDtypeStruct((1, 512, 4, 128), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((1, 512, 2, 128), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((1, 512), jnp.int32)

    def loss(q, k, v, segments):
        out = causal_attention(q, k, v, segments, platform="gpu")
        return jnp.sum(out.astype(jnp.float32))

    h200 = AbstractDevice("NVIDIA H200", 132, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=h200)):
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, k, segments)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    names = {"flash_attention", "flash_attention_d_queries", "flash_attention_d_keys"}
    assert names <= set(re.findall(r'name = "(\w+)"', text))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_it_lowers_for_platforms_that_are_not_here(platform):
    """On TPU to the splash kernel, forward and backward.

    cuDNN itself must be there to be lowered, so on a GPU this is the blockwise form.
    """
    dtype = jnp.bfloat16 if platform == "tpu" else jnp.float32
    q = jax.ShapeDtypeStruct((1, 512, 4, 128), dtype)
    k = jax.ShapeDtypeStruct((1, 512, 2, 128), dtype)
    segments = jax.ShapeDtypeStruct((1, 512), jnp.int32)

    def loss(q, k, v, segments):
        name = {"cuda": "gpu"}.get(platform, platform)
        return jnp.sum(causal_attention(q, k, v, segments, platform=name).astype(jnp.float32))

    lowered = export.export(jax.jit(jax.grad(loss, (0, 1, 2))), platforms=[platform])
    kernels = lowered(q, k, k, segments).mlir_module().count("tpu_custom_call")
    assert kernels == (3 if platform == "tpu" else 0)  # forward, d_q, d_k and d_v
