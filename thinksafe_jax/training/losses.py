"""Cross-entropy and KL over a vocabulary-sized head, a slice of the positions at a time.

At 16,384 tokens and 151,936 words the float32 logits of one sequence are 9.3 GiB. Here only
`chunk` positions of them exist at once, those of the reference beside them. The loss is linear in
its cotangent, so the forward pass of a differentiated call already computes the gradients, and the
logits are never computed twice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal

_LOGITS_BYTES = 64 * 2**20  # default size of the float32 logits that exist at once

# (log p_θ, log p_ref), both float32 [..., V] -> [...] in nats
Divergence = Callable[[jax.Array, jax.Array], jax.Array]
Facts = dict[str, jax.Array]  # of positions: targets, weights, and for the KL reference, kl_weights


class LossSums(NamedTuple):
    """Weighted sums over all positions, in nats; only `loss` carries a gradient."""

    loss: jax.Array  # cross_entropy + kl
    cross_entropy: jax.Array
    kl: jax.Array


def forward_kl(log_p: jax.Array, log_ref: jax.Array) -> jax.Array:
    """KL(p_ref || p_θ), the paper's (section 4): keeps all that the reference may say."""
    return jnp.sum(jnp.exp(log_ref) * (log_ref - log_p), axis=-1)


def reverse_kl(log_p: jax.Array, log_ref: jax.Array) -> jax.Array:
    """KL(p_θ || p_ref): keeps away from what the reference would not say (OPD)."""
    return jnp.sum(jnp.exp(log_p) * (log_p - log_ref), axis=-1)


def symmetric_kl(log_p: jax.Array, log_ref: jax.Array) -> jax.Array:
    """The mean of both (OPSA, arXiv 2605.15239)."""
    return 0.5 * (forward_kl(log_p, log_ref) + reverse_kl(log_p, log_ref))


def top_k_forward_kl(log_p: jax.Array, log_ref: jax.Array, k: int) -> jax.Array:
    """Forward KL over the reference's k likeliest words, all others counted as one word.

    At most the full KL, and zero only where the k probabilities agree.
    """
    kth = jax.lax.top_k(log_ref, k)[0][..., -1:]
    top = log_ref >= kth
    inside = jnp.sum(jnp.where(top, jnp.exp(log_ref) * (log_ref - log_p), 0.0), axis=-1)

    def log_rest(logs: jax.Array) -> jax.Array:  # -80, not -inf: its gradient must stay finite
        return jax.nn.logsumexp(jnp.where(top, -80.0, logs), axis=-1)

    rest = log_rest(log_ref)
    return inside + jnp.exp(rest) * (rest - log_rest(log_p))


DIVERGENCES: dict[str, Divergence] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "symmetric": symmetric_kl,
}


def divergence_of(name: str, top_k: int = 0) -> Divergence:
    """The divergence that a recipe names; `top_k` above 0 cuts the forward one to k words."""
    return partial(top_k_forward_kl, k=top_k) if top_k else DIVERGENCES[name]


def default_chunk(positions: int, vocab_size: int) -> int:
    """Positions whose logits exist at the same time: at least 128, at most all of them."""
    return min(positions, max(128, _LOGITS_BYTES // (4 * vocab_size)))


def chunked_loss(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    reference: jax.Array | None = None,
    kl_weights: jax.Array | None = None,
    divergence: Divergence = forward_kl,
    chunk: int | None = None,
) -> LossSums:
    """Weighted next-token cross-entropy, and the divergence from a reference, in float32, summed.

    The slices run along T, so that rows which lie on different devices stay there.

    Args:
        hidden: `[B, T, D]`, the states that predict.
        kernel: `[V, D]`, the LM head as Hugging Face stores it; its gradient is computed only where
            it is asked for.
        targets: i32 `[B, T]`, the ids predicted.
        weights: f32 `[B, T]` of the cross-entropy; 0 leaves a position out.
        reference: `[B, T, D]`, the states of the model to stay near to, under the same head; no
            gradient goes into it.
        kl_weights: f32 `[B, T]` of the divergence; given with `reference`.
        divergence: of the two distributions at a position.
        chunk: positions whose `[chunk, V]` logits exist at once; default by `default_chunk`.

    Returns:
        Sums, not means: the denominator is that of the whole optimiser step.
    """
    batch, length = targets.shape
    chunk = chunk or default_chunk(batch * length, kernel.shape[0])
    pieces = min(length, -(-batch * length // chunk))
    size = -(-length // pieces)

    def split(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [pieces, B, size, ...]
        x = jnp.pad(x, [(0, 0), (0, pieces * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, pieces, size, *x.shape[2:]), 1, 0)

    facts: Facts = {"targets": targets, "weights": weights.astype(jnp.float32)}
    if reference is not None:
        assert kl_weights is not None
        facts |= {"reference": jax.lax.stop_gradient(reference)}
        facts |= {"kl_weights": kl_weights.astype(jnp.float32)}
    # prompts and padding go to the end of T, where slices without any weight are skipped
    order = jnp.argsort(~_active(facts), axis=1, stable=True)

    def arrange(x: jax.Array) -> jax.Array:
        return split(jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), 1))

    return _summed(divergence)(arrange(hidden), kernel, jax.tree.map(arrange, facts))


def _active(facts: Facts) -> jax.Array:
    weights = facts["weights"]
    return (weights + facts["kl_weights"] if "kl_weights" in facts else weights) > 0


def _used(states: jax.Array, facts: Facts) -> jax.Array:
    """Zeros where a position is not in use: infinity there must not make the sum NaN.

    The states are masked and not their logits, which are a thousand times as many.
    """
    return jnp.where(_active(facts)[..., None], states, jnp.zeros_like(states))


def _logits(states: jax.Array, kernel: jax.Array) -> jax.Array:
    contract = (((2,), (1,)), ((), ()))
    return jax.lax.dot_general(states, kernel, contract, preferred_element_type=jnp.float32)


def _slice_sums(
    logits: jax.Array, kernel: jax.Array, facts: Facts, divergence: Divergence
) -> tuple[jax.Array, LossSums]:
    """Sums over one slice, from its float32 logits `[B, C, V]`; the loss twice, for `jax.vjp`."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    words = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    # a masked sum, not a gather, which would collect a vocabulary that lies on several devices
    chosen = jnp.sum(jnp.where(words == facts["targets"][..., None], logits, 0.0), axis=-1)
    entropy, kl = jnp.sum((log_z - chosen) * facts["weights"]), jnp.float32(0)
    if "reference" in facts:
        ours = _logits(_used(facts["reference"], facts), kernel)
        per_position = divergence(logits - log_z[..., None], jax.nn.log_softmax(ours, axis=-1))
        kl = jnp.sum(per_position * facts["kl_weights"])
    return entropy + kl, LossSums(entropy + kl, entropy, kl)


def _summed(divergence: Divergence) -> Callable[[jax.Array, jax.Array, Facts], LossSums]:
    """The sum over slices, with its own derivative."""

    def plain(hidden: jax.Array, kernel: jax.Array, facts: Facts) -> LossSums:
        def body(total: LossSums, piece: tuple[jax.Array, Facts]) -> tuple[LossSums, None]:
            states, own = piece

            def run() -> LossSums:
                scores = _logits(_used(states, own), kernel)
                sums = _slice_sums(scores, kernel, own, divergence)[1]
                return jax.tree.map(jnp.add, total, sums)

            return jax.lax.cond(jnp.any(_active(own)), run, lambda: total), None

        return jax.lax.scan(body, _zeros(), (hidden, facts))[0]

    def forward(hidden: CustomVJPPrimal, kernel: CustomVJPPrimal, facts: Any) -> tuple[Any, Any]:
        head = kernel.value
        d_head = jnp.zeros(head.shape, jnp.float32) if kernel.perturbed else None
        dot = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)

        def body(carry: tuple[LossSums, Any], piece: tuple[jax.Array, Facts]) -> tuple[Any, Any]:
            states, own = piece

            def run() -> tuple[Any, Any]:
                total, d_head = carry
                sums_of = partial(_slice_sums, kernel=head, facts=own, divergence=divergence)
                used = _used(states, own)
                _, pull, sums = jax.vjp(sums_of, _logits(used, head), has_aux=True)
                d_logits = pull(jnp.float32(1))[0].astype(head.dtype)
                d_states = dot(d_logits, head, (((2,), (0,)), ((), ()))).astype(states.dtype)
                if d_head is not None:
                    d_head = d_head + dot(d_logits, used, (((0, 1), (0, 1)), ((), ())))
                return (jax.tree.map(jnp.add, total, sums), d_head), d_states

            skip = lambda: (carry, jnp.zeros_like(states))  # noqa: E731
            return jax.lax.cond(jnp.any(_active(own)), run, skip)

        values = {name: primal.value for name, primal in facts.items()}
        carry, d_hidden = jax.lax.scan(body, (_zeros(), d_head), (hidden.value, values))
        total, d_head = carry
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


def _zeros() -> LossSums:
    return LossSums(jnp.float32(0), jnp.float32(0), jnp.float32(0))
