"""Cross-entropy and KL over a vocabulary-sized head, a slice of the positions at a time.

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

# of positions: targets, weights by stream, and for the KL reference, kl_weights
Facts = dict[str, Any]


class LossSums(NamedTuple):
    """Weighted sums over all positions, float32 scalars in nats; only `loss` carries a gradient."""

    loss: jax.Array  # everything
    nll: dict[str, jax.Array]  # -log p of the targets, by stream
    kl: jax.Array


def default_chunk(positions: int, vocab_size: int) -> int:
    """Positions whose logits exist at the same time: at least 128, at most all of them."""
    return min(positions, max(128, _LOGITS_BYTES // (4 * vocab_size)))


def chunked_loss(
    hidden: Float[Array, "B T D"],
    kernel: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Mapping[str, Float[Array, "B T"]],
    *,
    reference: Float[Array, "B T D"] | None = None,
    kl_weights: Float[Array, "B T"] | None = None,
    divergence: Divergence | None = None,
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
        reference: the states of the model to stay near to, under the same head; no gradient goes
            into it. Given with the next two.
        kl_weights: of the divergence.
        divergence: of the two distributions at a position.
        chunk: positions whose `[chunk, V]` logits exist at once; default by `default_chunk`.

    Returns:
        Sums, not means: the denominator is that of the whole optimiser step.
    """
    wide = {name: weight.astype(jnp.float32) for name, weight in weights.items()}
    facts: Facts = {"targets": targets, "weights": wide}
    if reference is not None:
        assert kl_weights is not None and divergence is not None
        facts |= {"reference": jax.lax.stop_gradient(reference)}
        facts |= {"kl_weights": kl_weights.astype(jnp.float32)}
    chunk = chunk or default_chunk(targets.size, kernel.shape[0])
    arrange = _slices(facts, chunk)
    return _summed(divergence)(arrange(hidden), kernel, jax.tree.map(arrange, facts))


def _slices(facts: Facts, chunk: int) -> Callable[[jax.Array], jax.Array]:
    """The function that cuts an array `[B, T, ...]` into slices `[N, B, C, ...]`.

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

    return arrange


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


def _slice_sums(
    logits: jax.Array, kernel: jax.Array, facts: Facts, divergence: Divergence | None
) -> tuple[jax.Array, LossSums]:
    """Sums over one slice, from its float32 logits `[B, C, V]`; the loss twice, for `jax.vjp`."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    words = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    # a masked sum, not a gather, which would collect a vocabulary that lies on several devices
    chosen = jnp.sum(jnp.where(words == facts["targets"][..., None], logits, 0.0), axis=-1)
    nll = {name: jnp.sum((log_z - chosen) * w) for name, w in facts["weights"].items()}
    kl = jnp.float32(0)
    if "reference" in facts and divergence is not None:
        reference = _logits(_used(facts["reference"], facts), kernel)
        log_p, log_ref = logits - log_z[..., None], jax.nn.log_softmax(reference, axis=-1)
        kl = jnp.sum(divergence(log_p, log_ref) * facts["kl_weights"])
    loss = reduce(jnp.add, [*nll.values(), kl])
    return loss, LossSums(loss, nll, kl)


def _slice_gradients(
    states: jax.Array,
    kernel: jax.Array,
    facts: Facts,
    divergence: Divergence | None,
    of_kernel: bool,
) -> tuple[LossSums, jax.Array, jax.Array | None]:
    """Sums over one slice, and the gradients of its loss in the states and the kernel.

    Backwards while the logits are there: at cotangent 1, which the loss's own scales later.
    """
    used = _used(states, facts)
    sums_of = partial(_slice_sums, kernel=kernel, facts=facts, divergence=divergence)
    _, pull, sums = jax.vjp(sums_of, _logits(used, kernel), has_aux=True)
    d_logits = pull(jnp.float32(1))[0].astype(kernel.dtype)
    dot = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
    d_states = dot(d_logits, kernel, (((2,), (0,)), ((), ()))).astype(states.dtype)
    d_kernel = dot(d_logits, used, (((0, 1), (0, 1)), ((), ()))) if of_kernel else None
    return sums, d_states, d_kernel


def _summed(divergence: Divergence | None) -> Callable[[jax.Array, jax.Array, Facts], LossSums]:
    """The sum over slices, with its own derivative."""

    def plain(hidden: jax.Array, kernel: jax.Array, all_facts: Facts) -> LossSums:
        def body(total: LossSums, piece: tuple[jax.Array, Facts]) -> tuple[LossSums, None]:
            states, facts = piece

            def run() -> LossSums:
                logits = _logits(_used(states, facts), kernel)
                sums = _slice_sums(logits, kernel, facts, divergence)[1]
                return jax.tree.map(jnp.add, total, sums)

            return jax.lax.cond(jnp.any(_active(facts)), run, lambda: total), None

        return jax.lax.scan(body, _zeros(all_facts), (hidden, all_facts))[0]

    def forward(
        hidden: CustomVJPPrimal, kernel: CustomVJPPrimal, all_facts: Any
    ) -> tuple[Any, Any]:
        head = kernel.value

        def body(carry: tuple[LossSums, Any], piece: tuple[jax.Array, Facts]) -> tuple[Any, Any]:
            states, facts = piece

            def run() -> tuple[Any, Any]:
                total, d_head = carry
                slice_of = (states, head, facts, divergence)
                sums, d_states, d_kernel = _slice_gradients(*slice_of, of_kernel=kernel.perturbed)
                d_head = None if d_kernel is None else d_head + d_kernel
                return (jax.tree.map(jnp.add, total, sums), d_head), d_states

            skip = lambda: (carry, jnp.zeros_like(states))  # noqa: E731
            return jax.lax.cond(jnp.any(_active(facts)), run, skip)

        values = jax.tree.map(lambda primal: primal.value, all_facts)
        zeros = _zeros(values), jnp.zeros(head.shape, jnp.float32) if kernel.perturbed else None
        (total, d_head), d_hidden = jax.lax.scan(body, zeros, (hidden.value, values))
        # an empty array carries the head's dtype, which the float32 sum no longer has
        return total, (d_hidden, d_head, jnp.zeros((0,), head.dtype))

    def backward(residuals: Any, cotangents: LossSums) -> tuple[Any, Any, None]:
        d_hidden, d_head, like = residuals
        scaled = (cotangents.loss * d_hidden.astype(jnp.float32)).astype(d_hidden.dtype)
        if d_head is not None:
            d_head = (cotangents.loss * d_head).astype(like.dtype)
        return scaled, d_head, None

    total = jax.custom_vjp(plain)
    total.defvjp(forward, backward, symbolic_zeros=True)
    return total


def _zeros(facts: Facts) -> LossSums:
    nll = jax.tree.map(lambda _: jnp.float32(0), facts["weights"])
    return LossSums(jnp.float32(0), nll, jnp.float32(0))
