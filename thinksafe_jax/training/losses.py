"""Losses over a vocabulary-sized head, a slice of the positions at a time.

At 16,384 tokens and 151,936 words the float32 logits of one sequence are 9.3 GiB. Here only
`chunk` positions of them exist at once, those of the reference beside them. The loss is linear in
its cotangent, so the forward pass of a differentiated call already computes the gradients, and the
logits are never computed twice.
"""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Float, Int

from thinksafe_jax.training.divergences import Divergence

_LOGITS_BYTES = 64 * 2**20  # default size of the float32 logits that exist at once

# of positions: targets, weights by stream; for the KL reference and kl_weights; of rollouts
# temperature and sampled
Facts = dict[str, Any]


class Reference(NamedTuple):
    """The model to stay near to, or to learn from; no gradient goes into it.

    Attributes:
        states: its hidden states at the same positions.
        weights: of the divergence.
        divergence: of the two distributions at a position.
        kernel: its own LM head; None where it has that of the model in training.
    """

    states: Float[Array, "B T R"]
    weights: Float[Array, "B T"]
    divergence: Divergence
    kernel: Float[Array, "V R"] | None = None


class Rollout(NamedTuple):
    """How the targets were sampled.

    Attributes:
        temperature: by which the logits of a position are divided, the reference's too.
        sampled: the log-probability of each target when it was drawn.
        ratio_cap: above 0, the weights of -log p are multiplied by the importance ratio
            exp(log p - sampled), cut at this; no gradient goes through it.
    """

    temperature: Float[Array, "B T"]
    sampled: Float[Array, "B T"]
    ratio_cap: float = 0.0


class LossSums(NamedTuple):
    """Weighted sums over all positions, float32 scalars in nats; only `loss` carries a gradient.

    Attributes:
        loss: everything.
        nll: -log p of the targets, by stream.
        kl: the divergence from the reference.
        log_p: no sum, but the log-probability of each target of a rollout, `[B, T]`; zero where
            nothing has a weight. None where the targets were not sampled.
    """

    loss: jax.Array
    nll: dict[str, jax.Array]
    kl: jax.Array
    log_p: jax.Array | None = None


class _Terms(NamedTuple):
    """What a slice needs beside its arrays; static."""

    divergence: Divergence | None
    ratio_cap: float


def default_chunk(positions: int, vocab_size: int) -> int:
    """Positions whose logits exist at the same time: at least 128, at most all of them."""
    return min(positions, max(128, _LOGITS_BYTES // (4 * vocab_size)))


def chunked_loss(
    hidden: Float[Array, "B T D"],
    kernel: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Mapping[str, Float[Array, "B T"]],
    *,
    reference: Reference | None = None,
    rollout: Rollout | None = None,
    chunk: int | None = None,
) -> LossSums:
    """Weighted -log p of the next tokens, and the divergence from a reference, in float32, summed.

    The slices run along T, so that rows which lie on different devices stay there.

    Args:
        hidden: the states that predict.
        kernel: the LM head as Hugging Face stores it; its gradient is computed only where it is
            asked for.
        targets: the ids predicted.
        weights: of -log p, by stream, as `ce` or a policy gradient's; of either sign, and 0 leaves
            a position out. What has a gradient is their sum.
        reference: what the divergence is from.
        rollout: how the targets were sampled; None is at temperature 1, and from nowhere.
        chunk: positions whose `[chunk, V]` logits exist at once; default by `default_chunk`.

    Returns:
        Sums, not means: the denominator is that of the whole optimiser step.
    """
    facts: Facts = {"targets": targets}
    facts |= {"weights": {name: weight.astype(jnp.float32) for name, weight in weights.items()}}
    terms, head = _Terms(None, 0.0), None
    if reference is not None:
        facts |= {"reference": jax.lax.stop_gradient(reference.states)}
        facts |= {"kl_weights": reference.weights.astype(jnp.float32)}
        terms, head = terms._replace(divergence=reference.divergence), reference.kernel
    if rollout is not None:
        facts |= {"temperature": rollout.temperature, "sampled": rollout.sampled}
        terms = terms._replace(ratio_cap=rollout.ratio_cap)
    chunk = chunk or default_chunk(targets.size, kernel.shape[0])
    arrange, restore = _slices(facts, chunk)
    sums = _summed(terms)(arrange(hidden), kernel, head, jax.tree.map(arrange, facts))
    return sums if sums.log_p is None else sums._replace(log_p=restore(sums.log_p))


def _slices(
    facts: Facts, chunk: int
) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """The function that cuts an array `[B, T, ...]` into slices `[N, B, C, ...]`, and its inverse.

    Each slice holds a part of T of every row. Prompts and padding go to the end of T before, where
    slices without any weight are skipped:

        row 0   p p r r r .     ->   r r | r p | p .
        row 1   p r r . . .     ->   r r | p . | . .    the last slice is not computed
    """
    batch, length = facts["targets"].shape
    count = min(length, -(-batch * length // chunk))
    size = -(-length // count)
    order = jnp.argsort(~_active(facts), axis=1, stable=True)

    def arrange(x: jax.Array) -> jax.Array:
        x = jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), 1)
        x = jnp.pad(x, [(0, 0), (0, count * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, count, size, *x.shape[2:]), 1, 0)

    def restore(x: jax.Array) -> jax.Array:  # [N, B, C] -> [B, T]
        flat = jnp.moveaxis(x, 0, 1).reshape(batch, count * size)[:, :length]
        return jnp.take_along_axis(flat, jnp.argsort(order, axis=1), 1)

    return arrange, restore


def _active(facts: Facts) -> jax.Array:
    """Where any loss has a weight: not their sum, which signed weights may make zero."""
    weights = [*facts["weights"].values()]
    if "kl_weights" in facts:
        weights.append(facts["kl_weights"])
    return reduce(jnp.logical_or, (weight != 0 for weight in weights))


def _used(states: jax.Array, facts: Facts) -> jax.Array:
    """Zeros where a position is not in use: infinity there must not make the sum NaN.

    The states are masked and not their logits, which are a thousand times as many.
    """
    return jnp.where(_active(facts)[..., None], states, jnp.zeros_like(states))


def _logits(states: jax.Array, kernel: jax.Array) -> jax.Array:
    contract = (((2,), (1,)), ((), ()))
    return jax.lax.dot_general(states, kernel, contract, preferred_element_type=jnp.float32)


def _tempered(logits: jax.Array, facts: Facts) -> jax.Array:
    """Logits of the distribution that the targets were drawn from."""
    if "temperature" not in facts:
        return logits
    heat = jnp.where(_active(facts), facts["temperature"], 1.0)
    return logits / heat[..., None]


def _slice_sums(
    logits: jax.Array, head: jax.Array, facts: Facts, terms: _Terms
) -> tuple[jax.Array, LossSums]:
    """Sums over one slice, from its float32 logits `[B, C, V]`; the loss twice, for `jax.vjp`.

    Args:
        head: the reference's.
    """
    logits = _tempered(logits, facts)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    words = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    # a masked sum, not a gather, which would collect a vocabulary that lies on several devices
    is_target = words == facts["targets"][..., None]
    chosen = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    weights, log_p_target = facts["weights"], None
    if "sampled" in facts:
        log_p_target = jnp.where(_active(facts), jax.lax.stop_gradient(chosen - log_z), 0.0)
        if terms.ratio_cap:
            ratio = jnp.minimum(jnp.exp(log_p_target - facts["sampled"]), terms.ratio_cap)
            weights = {name: ratio * w for name, w in weights.items()}
    nll = {name: jnp.sum((log_z - chosen) * w) for name, w in weights.items()}
    kl = jnp.float32(0)
    if "reference" in facts and terms.divergence is not None:
        reference = _tempered(_logits(_used(facts["reference"], facts), head), facts)
        log_p, log_ref = logits - log_z[..., None], jax.nn.log_softmax(reference, axis=-1)
        kl = jnp.sum(terms.divergence(log_p, log_ref, is_target) * facts["kl_weights"])
    loss = reduce(jnp.add, [*nll.values(), kl])
    return loss, LossSums(loss, nll, kl, log_p_target)


def _slice_gradients(
    states: jax.Array, heads: tuple[jax.Array, jax.Array], facts: Facts, terms: _Terms, wide: bool
) -> tuple[LossSums, jax.Array, jax.Array | None]:
    """Sums over one slice, and the gradients of its loss in the states and the kernel.

    Backwards while the logits are there: at cotangent 1, which the loss's own scales later.

    Args:
        heads: the model's, and the reference's.
        wide: whether the gradient of the model's head is asked for.
    """
    kernel, reference_head = heads
    used = _used(states, facts)
    sums_of = partial(_slice_sums, head=reference_head, facts=facts, terms=terms)
    _, pull, sums = jax.vjp(sums_of, _logits(used, kernel), has_aux=True)
    d_logits = pull(jnp.float32(1))[0].astype(kernel.dtype)
    dot = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
    d_states = dot(d_logits, kernel, (((2,), (0,)), ((), ()))).astype(states.dtype)
    d_kernel = dot(d_logits, used, (((0, 1), (0, 1)), ((), ()))) if wide else None
    return sums, d_states, d_kernel


def _summed(terms: _Terms) -> Callable[..., LossSums]:
    """The sum over slices of (states, kernel, the reference's kernel, facts), with its derivative.

    No gradient goes into the reference's kernel or the facts.
    """
    total = jax.custom_vjp(partial(_sums, terms))
    total.defvjp(partial(_sums_and_gradients, terms), _scaled, symbolic_zeros=True)
    return total


def _sums(
    terms: _Terms, hidden: jax.Array, kernel: jax.Array, head: jax.Array | None, all_facts: Facts
) -> LossSums:
    reference_head = kernel if head is None else head

    def body(total: LossSums, piece: tuple[jax.Array, Facts]) -> tuple[LossSums, Any]:
        states, facts = piece
        logits = _logits(_used(states, facts), kernel)
        return _added(total, _slice_sums(logits, reference_head, facts, terms)[1])

    total, log_p = _over_active(body, _zeros(all_facts), hidden, all_facts)
    return total._replace(log_p=log_p)


def _sums_and_gradients(
    terms: _Terms, hidden: CustomVJPPrimal, kernel: CustomVJPPrimal, head: Any, all_facts: Any
) -> tuple[LossSums, Any]:
    """The forward pass of a differentiated call; its residuals are the gradients."""
    heads = kernel.value, kernel.value if head is None else head.value
    values = jax.tree.map(lambda primal: primal.value, all_facts)

    def body(carry: tuple[LossSums, Any], piece: tuple[jax.Array, Facts]) -> tuple[Any, Any]:
        (total, d_head), (states, facts) = carry, piece
        gradients = _slice_gradients(states, heads, facts, terms, wide=kernel.perturbed)
        sums, d_states, d_kernel = gradients
        d_head = None if d_kernel is None else d_head + d_kernel
        total, log_p = _added(total, sums)
        return (total, d_head), (d_states, log_p)

    shape = kernel.value.shape
    zeros = _zeros(values), jnp.zeros(shape, jnp.float32) if kernel.perturbed else None
    sums, (d_hidden, log_p) = _over_active(body, zeros, hidden.value, values)
    total, d_head = sums
    # an empty array carries the head's dtype, which the float32 sum no longer has
    like = jnp.zeros((0,), kernel.value.dtype)
    return total._replace(log_p=log_p), (d_hidden, d_head, like)


def _over_active(
    body: Callable[[Any, tuple[jax.Array, Facts]], tuple[Any, Any]],
    start: Any,
    hidden: jax.Array,
    all_facts: Facts,
) -> tuple[Any, Any]:
    """`jax.lax.scan` over the slices that have any weight, which come first; zeros for the others.

    A loop that ends early, and no condition in each slice: a GPU's host would wait for that.
    """
    pieces = hidden, all_facts
    count = jnp.sum(jnp.any(_active(all_facts), axis=(1, 2)), dtype=jnp.int32)

    def at(index: jax.Array) -> tuple[jax.Array, Facts]:
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), pieces
        )

    def step(index: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        total, outputs = carry
        total, new = body(total, at(index))
        put = partial(jax.lax.dynamic_update_index_in_dim, index=index, axis=0)
        return total, jax.tree.map(put, outputs, new)

    shapes = jax.eval_shape(lambda: body(start, at(jnp.int32(0)))[1])
    slices = hidden.shape[0]
    outputs = jax.tree.map(lambda x: jnp.zeros((slices, *x.shape), x.dtype), shapes)
    with jax.named_scope(f"at_most_{slices}"):  # what `plan` counts: the data decide
        return jax.lax.fori_loop(0, count, step, (start, outputs))


def _scaled(residuals: Any, cotangents: LossSums) -> tuple[Any, Any, None, None]:
    """The gradients, times the cotangent of the loss."""
    d_hidden, d_head, like = residuals
    scaled = (cotangents.loss * d_hidden.astype(jnp.float32)).astype(d_hidden.dtype)
    if d_head is not None:
        d_head = (cotangents.loss * d_head).astype(like.dtype)
    return scaled, d_head, None, None


def _added(total: LossSums, sums: LossSums) -> tuple[LossSums, jax.Array | None]:
    """The sums so far, and the log-probabilities of the slice, which are no sum."""
    return jax.tree.map(jnp.add, total, sums._replace(log_p=None)), sums.log_p


def _zeros(facts: Facts) -> LossSums:
    nll = jax.tree.map(lambda _: jnp.float32(0), facts["weights"])
    return LossSums(jnp.float32(0), nll, jnp.float32(0))
