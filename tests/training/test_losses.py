"""The chunked losses equal the plain ones and never hold the logits of all positions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thinksafe_jax.training import default_chunk
from thinksafe_jax.training.divergences import DIVERGENCES, make_divergence
from thinksafe_jax.training.losses import Reference, Rollout, chunked_loss

pytestmark = pytest.mark.slow

B, T, D, V = 2, 19, 12, 211
FORWARD = make_divergence("forward")
DIVERGENCES_TESTED = [("forward", 0), ("reverse", 0), ("symmetric", 0), ("forward", 5)]


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (B, T, D))
    kernel = jax.random.normal(keys[1], (V, D))
    targets = jax.random.randint(keys[2], (B, T), 0, V)
    weights = jax.random.bernoulli(keys[3], 0.6, (B, T)).astype(jnp.float32)
    return hidden, kernel, targets, weights * jnp.linspace(0.5, 2.0, B * T).reshape(B, T)


@pytest.fixture(scope="module")
def reference(inputs):
    """(states of the reference, weights of the KL: half of the positions that have any)."""
    hidden, _, _, weights = inputs
    states = hidden + 0.3 * jax.random.normal(jax.random.key(9), hidden.shape)
    return states, weights * (jnp.arange(T) % 2)[None].astype(jnp.float32)


def plain(hidden, kernel, targets, weights):
    logits = jnp.matmul(hidden, kernel.T, precision="highest")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(losses * weights)


def gradients(loss, **more):
    """Value and both gradients of a loss of states and head, as one program."""
    return jax.jit(jax.value_and_grad(loss, (0, 1), **more))


def assert_close(have, want):
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6 * float(jnp.abs(b).max()))


@pytest.fixture(scope="module")
def of_optax(inputs):
    """(loss, gradients by the states and by the head), three times what optax has."""
    hidden, kernel, targets, weights = inputs
    return gradients(lambda h, k: 3.0 * plain(h, k, targets, weights))(hidden, kernel)


@pytest.mark.parametrize("chunk", [1, 8, 37, 64, None])
def test_loss_and_both_gradients_equal_optax(inputs, of_optax, chunk):
    hidden, kernel, targets, weights = inputs

    def chunked(hidden, kernel):
        return 3.0 * chunked_loss(hidden, kernel, targets, {"ce": weights}, chunk=chunk).loss

    have = gradients(chunked)(hidden, kernel)
    assert_close(have, of_optax)
    np.testing.assert_allclose(jax.jit(chunked)(hidden, kernel), have[0], rtol=1e-6)


@pytest.mark.parametrize(("name", "top_k"), DIVERGENCES_TESTED)
def test_cross_entropy_and_kl_side_by_side(inputs, reference, name, top_k):
    """Both in one pass over the slices, against autodiff through the whole [B, T, V]."""
    hidden, kernel, targets, weights = inputs
    states, near = reference
    rest = weights - near

    def chunked(hidden, kernel):
        sums = chunked_loss(
            hidden,
            kernel,
            targets,
            {"ce": rest},
            reference=Reference(states, near, make_divergence(name, top_k)),
            chunk=8,
        )
        return sums.loss, sums

    def whole(hidden, kernel):
        log_p, log_ref = (
            jax.nn.log_softmax(jnp.matmul(x, k.T, precision="highest"))
            for x, k in ((hidden, kernel), (states, jax.lax.stop_gradient(kernel)))
        )
        kl = jnp.sum(make_divergence(name, top_k)(log_p, log_ref) * near)
        return plain(hidden, kernel, targets, rest) + kl, kl

    (have, sums), grads = gradients(chunked, has_aux=True)(hidden, kernel)
    (want, kl), want_grads = gradients(whole, has_aux=True)(hidden, kernel)
    np.testing.assert_allclose((have, sums.kl), (want, kl), rtol=2e-5)
    np.testing.assert_allclose(sums.nll["ce"] + sums.kl, sums.loss, rtol=1e-6)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * float(jnp.abs(b).max()))


def test_forward_kl_is_that_of_torch():
    """`F.kl_div(log p, log p_ref, log_target=True, reduction="sum")`, as the authors call it."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours, ref = (
        np.array(jax.nn.log_softmax(jnp.asarray(rng.normal(size=(7, V)), jnp.float32)))
        for _ in range(2)
    )
    want = torch.nn.functional.kl_div(
        torch.tensor(ours), torch.tensor(ref), log_target=True, reduction="sum"
    )
    arrays = [jnp.asarray(ours), jnp.asarray(ref)]
    np.testing.assert_allclose(DIVERGENCES["forward"](*arrays).sum(), want.item(), rtol=1e-5)
    # the other direction is the same function with its arguments exchanged
    np.testing.assert_allclose(DIVERGENCES["reverse"](*arrays[::-1]).sum(), want.item(), rtol=1e-5)


def test_top_k_kl_grows_with_k_up_to_the_full_one():
    keys = jax.random.split(jax.random.key(3))
    log_p, log_ref = (jax.nn.log_softmax(2 * jax.random.normal(k, (4, 30))) for k in keys)
    full = DIVERGENCES["forward"](log_p, log_ref)
    values = [make_divergence("forward", k)(log_p, log_ref) for k in (1, 5, 15, 29)]
    for smaller, larger in zip(values, [*values[1:], full], strict=True):
        assert (smaller <= larger + 1e-6).all()
    np.testing.assert_allclose(values[-1], full, rtol=1e-5)
    for more in (30, 31):  # all of the vocabulary, or more than there is
        value = make_divergence("forward", more)(log_p, log_ref)
        np.testing.assert_allclose(value, full, rtol=1e-5)
    assert (jnp.abs(make_divergence("forward", 5)(log_ref, log_ref)) < 1e-6).all()


def test_at_the_reference_itself_kl_and_its_gradient_are_zero(inputs):
    """The first step of a run: the adapter's B is zero."""
    hidden, kernel, targets, weights = inputs

    def kl(states):
        none = jnp.zeros_like(weights)
        more = {"reference": Reference(hidden, weights, FORWARD), "chunk": 8}
        return chunked_loss(states, kernel, targets, {"ce": none}, **more).loss

    value, gradient = jax.jit(jax.value_and_grad(kl))(hidden)
    assert abs(value) < 1e-4 and jnp.abs(gradient).max() < 1e-5


def test_a_position_without_weight_may_hold_anything(inputs, reference):
    hidden, kernel, targets, weights = inputs
    states, near = reference
    broken = hidden.at[0, 0].set(jnp.inf)
    weights, near = weights.at[0, 0].set(0.0), near.at[0, 0].set(0.0)

    def loss(hidden, states):
        more = {"reference": Reference(states, near, FORWARD)}
        return chunked_loss(hidden, kernel, targets, {"ce": weights - near}, **more, chunk=8).loss

    value, grad = jax.jit(jax.value_and_grad(loss))(broken, states.at[0, 0].set(jnp.nan))
    np.testing.assert_allclose(value, jax.jit(loss)(hidden, states), rtol=1e-6)
    assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize(
    "name", ["forward", "reverse", "symmetric", "k3", "k3-corrected", "top-forward"]
)
def test_a_teacher_with_a_head_of_its_own(inputs, name):
    """Another width, and at the temperature of the rollouts: against autodiff through [B, T, V]."""
    hidden, kernel, targets, weights = inputs
    keys = jax.random.split(jax.random.key(4), 3)
    states = jax.random.normal(keys[0], (B, T, 2 * D))
    head = 0.5 * jax.random.normal(keys[1], (V, 2 * D))
    heat = jnp.where(jnp.arange(B)[:, None] == 0, 0.7, 1.0) * jnp.ones((B, T))
    divergence = make_divergence(name, 9 if name == "top-forward" else 0)

    def chunked(hidden, kernel):
        return chunked_loss(
            hidden,
            kernel,
            targets,
            {},
            reference=Reference(states, weights, divergence, head),
            rollout=Rollout(heat, jnp.zeros((B, T))),
            chunk=8,
        ).loss

    def whole(hidden, kernel):
        log_p, log_ref = (
            jax.nn.log_softmax(jnp.matmul(x, k.T, precision="highest") / heat[..., None])
            for x, k in ((hidden, kernel), (states, head))
        )
        is_target = jax.nn.one_hot(targets, V, dtype=bool)
        return jnp.sum(divergence(log_p, log_ref, is_target) * weights)

    have, want = gradients(chunked)(hidden, kernel), gradients(whole)(hidden, kernel)
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * float(jnp.abs(b).max()))


def test_log_probabilities_of_a_rollout_are_those_at_its_temperature(inputs):
    """And they come back where the targets stand, zero where nothing has a weight."""
    hidden, kernel, targets, weights = inputs
    heat = jnp.full((B, T), 0.7)

    def run(hidden):
        sums = chunked_loss(
            hidden,
            kernel,
            targets,
            {"pg": weights},
            rollout=Rollout(heat, jnp.zeros((B, T))),
            chunk=8,
        )
        return sums.loss, sums.log_p

    want = jax.nn.log_softmax(jnp.matmul(hidden, kernel.T, precision="highest") / 0.7)
    want = jnp.take_along_axis(want, targets[..., None], -1)[..., 0]
    (_, log_p), _ = jax.jit(jax.value_and_grad(run, has_aux=True))(hidden)
    for have in (log_p, jax.jit(run)(hidden)[1]):
        np.testing.assert_allclose(have, jnp.where(weights != 0, want, 0.0), rtol=1e-5, atol=1e-5)


def test_the_importance_ratio_is_capped_and_has_no_gradient(inputs):
    """Weights of rollouts that another program drew: min(p / q, cap) of each token."""
    hidden, kernel, targets, weights = inputs
    signed = weights * jnp.where(jnp.arange(T) % 3 == 0, -1.0, 1.0)[None]
    log_p = jax.nn.log_softmax(jnp.matmul(hidden, kernel.T, precision="highest"))
    log_p = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    drawn = log_p + jnp.linspace(-2.0, 2.0, B * T).reshape(B, T)
    ones = jnp.ones((B, T))

    def gradient(weights, rollout):
        def loss(hidden):
            more = {"rollout": rollout, "chunk": 8}
            return chunked_loss(hidden, kernel, targets, {"pg": weights}, **more).loss

        return jax.jit(jax.value_and_grad(loss))(hidden)

    ratio = jnp.minimum(jnp.exp(log_p - drawn), 2.0)
    assert (ratio == 2.0).any() and (ratio < 1.0).any()
    have = gradient(signed, Rollout(ones, drawn, 2.0))
    want = gradient(signed * ratio, Rollout(ones, drawn))
    for a, b in zip(have, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4)


def test_what_the_estimates_of_the_kl_estimate():
    """Three words, enumerated: k3's value is the reverse KL, but its gradient is another's.

    Expectations are taken over the model's own words, as on policy. k3's mean is KL(p || ref), its
    mean gradient is that of KL(ref || p); with the importance ratio in it both are KL(p || ref)'s.
    """
    log_ref = jax.nn.log_softmax(jnp.array([0.3, -1.0, 0.9]))
    logits = jnp.array([1.0, 0.2, -0.5])

    def expected(name, logits, drawn_by):
        log_p = jax.nn.log_softmax(logits)
        values = jax.vmap(lambda word: DIVERGENCES[name](log_p, log_ref, jnp.arange(3) == word))
        return jnp.sum(jnp.exp(jax.nn.log_softmax(drawn_by)) * values(jnp.arange(3)))

    def exact(name, logits):
        return DIVERGENCES[name](jax.nn.log_softmax(logits), log_ref)

    reverse, forward = jax.grad(partial(exact, "reverse")), jax.grad(partial(exact, "forward"))
    for name in ("k3", "k3-corrected"):
        np.testing.assert_allclose(
            expected(name, logits, logits), exact("reverse", logits), rtol=1e-5
        )
    biased = jax.grad(partial(expected, "k3"))(logits, logits)
    np.testing.assert_allclose(biased, forward(logits), rtol=1e-4, atol=1e-6)
    assert jnp.abs(biased - reverse(logits)).max() > 0.05
    sound = jax.grad(partial(expected, "k3-corrected"))(logits, logits)
    np.testing.assert_allclose(sound, reverse(logits), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("argnums", [(0,), (0, 1)])
def test_no_array_of_all_logits_exists(inputs, reference, argnums):
    """Forward and backward, for cross-entropy and KL together."""
    hidden, kernel, targets, weights = inputs
    states, near = reference

    def loss(hidden, kernel):
        more = {"reference": Reference(states, near, FORWARD)}
        return chunked_loss(hidden, kernel, targets, {"ce": weights - near}, **more, chunk=8).loss

    compiled = jax.jit(jax.value_and_grad(loss, argnums)).lower(hidden, kernel).compile().as_text()
    assert f"[{B},4,{V}]" in compiled  # a slice: 5 of 4 positions in each of two rows
    for rows in (f"{B},{T}", f"{B},20", f"5,{B},4", f"{B * T}", "40"):
        assert f"[{rows},{V}]" not in compiled
    everything = jax.jit(jax.grad(lambda h: plain(h, kernel, targets, weights)))
    text = everything.lower(hidden).compile().as_text()
    assert f"[{B},{T},{V}]" in text or f"[{B * T},{V}]" in text  # the test can see one


def test_the_head_gradient_is_computed_only_where_asked(inputs):
    hidden, kernel, targets, weights = inputs

    def loss(hidden, kernel):
        return chunked_loss(hidden, kernel, targets, {"ce": weights}, chunk=8).loss

    def matmuls(argnums) -> int:
        return str(jax.make_jaxpr(jax.grad(loss, argnums))(hidden, kernel)).count("dot_general")

    assert (matmuls(0), matmuls((0, 1))) == (2, 3)


def test_bfloat16_head_keeps_float32_sums_and_its_own_gradient_dtype(inputs):
    hidden, kernel, targets, weights = inputs
    low = (hidden.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    loss = partial(lambda h, k: chunked_loss(h, k, targets, {"ce": weights}, chunk=8).loss)
    value, grads = gradients(loss)(*low)
    assert value.dtype == jnp.float32
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.bfloat16]
    np.testing.assert_allclose(value, jax.jit(loss)(hidden, kernel), rtol=2e-2)


def test_the_default_chunk_follows_the_vocabulary():
    assert default_chunk(16384, 1024) == 16384
    assert default_chunk(16384, 151936) == 128
    assert default_chunk(64, 151936) == 64
