"""The chunked loss equals the plain one and never holds the logits of all positions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thinksafe_jax.training.losses import chunked_cross_entropy, default_chunk

N, D, V = 37, 12, 211


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (N, D))
    kernel = jax.random.normal(keys[1], (V, D))
    targets = jax.random.randint(keys[2], (N,), 0, V)
    weights = jax.random.bernoulli(keys[3], 0.6, (N,)).astype(jnp.float32)
    return hidden, kernel, targets, weights * jnp.linspace(0.5, 2.0, N)


def plain(hidden, kernel, targets, weights):
    logits = jnp.matmul(hidden, kernel.T, precision="highest")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(losses * weights)


@pytest.mark.parametrize("chunk", [1, 8, 37, 64, None])
def test_loss_and_both_gradients_equal_optax(inputs, chunk):
    hidden, kernel, targets, weights = inputs

    def chunked(hidden, kernel):
        return 3.0 * chunked_cross_entropy(hidden, kernel, targets, weights, chunk)[0]

    want = jax.value_and_grad(lambda h, k: 3.0 * plain(h, k, targets, weights), (0, 1))
    have = jax.jit(jax.value_and_grad(chunked, (0, 1)))(hidden, kernel)
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want(hidden, kernel)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6 * float(jnp.abs(b).max()))
    undifferentiated, weight = chunked_cross_entropy(hidden, kernel, targets, weights, chunk)
    np.testing.assert_allclose(3.0 * undifferentiated, have[0], rtol=1e-6)
    np.testing.assert_allclose(weight, weights.sum(), rtol=1e-6)


def test_a_position_without_weight_may_hold_anything(inputs):
    hidden, kernel, targets, weights = inputs
    broken = hidden.at[0].set(jnp.inf)
    weights = weights.at[0].set(0.0)

    def loss(hidden):
        return chunked_cross_entropy(hidden, kernel, targets, weights, 8)[0]

    value, grad = jax.value_and_grad(loss)(broken)
    np.testing.assert_allclose(value, loss(hidden), rtol=1e-6)
    assert np.isfinite(value) and np.isfinite(grad[1:]).all()


@pytest.mark.parametrize("argnums", [(0,), (0, 1)])
def test_no_array_of_all_logits_exists(inputs, argnums):
    hidden, kernel, targets, weights = inputs

    def loss(hidden, kernel):
        return chunked_cross_entropy(hidden, kernel, targets, weights, 8)[0]

    compiled = jax.jit(jax.value_and_grad(loss, argnums)).lower(hidden, kernel).compile().as_text()
    assert f"[8,{V}]" in compiled
    for rows in (N, 40):  # as given, and padded to chunks
        assert f"[{rows},{V}]" not in compiled and f"[5,8,{V}]" not in compiled
    everything = jax.jit(jax.grad(lambda h: plain(h, kernel, targets, weights)))
    assert f"[{N},{V}]" in everything.lower(hidden).compile().as_text()  # the test can see one


def test_the_head_gradient_is_computed_only_where_asked(inputs):
    hidden, kernel, targets, weights = inputs

    def loss(hidden, kernel):
        return chunked_cross_entropy(hidden, kernel, targets, weights, 8)[0]

    def matmuls(argnums) -> int:
        return str(jax.make_jaxpr(jax.grad(loss, argnums))(hidden, kernel)).count("dot_general")

    assert (matmuls(0), matmuls((0, 1))) == (2, 3)


def test_bfloat16_head_keeps_float32_sums_and_its_own_gradient_dtype(inputs):
    hidden, kernel, targets, weights = inputs
    low = (hidden.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))

    def loss(hidden, kernel):
        return chunked_cross_entropy(hidden, kernel, targets, weights, 8)[0]

    value, grads = jax.value_and_grad(loss, (0, 1))(*low)
    assert value.dtype == jnp.float32
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.bfloat16]
    np.testing.assert_allclose(value, loss(hidden, kernel), rtol=2e-2)


def test_the_default_chunk_follows_the_vocabulary():
    assert default_chunk(16384, 1024) == 16384
    assert default_chunk(16384, 151936) == 128
    assert default_chunk(64, 151936) == 64
