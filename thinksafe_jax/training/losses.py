"""Cross-entropy over a vocabulary-sized head, a slice of the positions at a time.

At 16,384 tokens and 151,936 words the float32 logits of one sequence are 9.3 GiB. Here only
`chunk` rows of them exist at once. The loss is linear in its cotangent, so the forward pass of a
differentiated call already computes the gradients, and the logits are never computed twice.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal

_LOGITS_BYTES = 64 * 2**20  # default size of the float32 logits that exist at once


def default_chunk(positions: int, vocab_size: int) -> int:
    """Positions whose logits exist at the same time: at least 128, at most all of them."""
    return min(positions, max(128, _LOGITS_BYTES // (4 * vocab_size)))


def chunked_cross_entropy(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Weighted next-token cross-entropy in float32, summed.

    Args:
        hidden: `[N, D]`, the states that predict.
        kernel: `[V, D]`, the LM head as Hugging Face stores it; its gradient is computed only where
            it is asked for.
        targets: i32 `[N]`, the ids predicted.
        weights: f32 `[N]`; 0 leaves a position out.
        chunk: positions whose `[chunk, V]` logits exist at once; default by `default_chunk`.

    Returns:
        (sum of weight x loss in nats, sum of weights), float32 scalars. The sums, not the mean: the
        denominator is that of the whole optimiser step.
    """
    positions = hidden.shape[0]
    chunk = min(positions, chunk or default_chunk(positions, kernel.shape[0]))
    pad = -positions % chunk
    hidden = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(-1, chunk, hidden.shape[1])
    targets = jnp.pad(targets, (0, pad)).reshape(-1, chunk)
    padded = jnp.pad(weights.astype(jnp.float32), (0, pad)).reshape(-1, chunk)
    return _loss_sum(hidden, kernel, targets, padded), jnp.sum(padded)


def _plain_loss_sum(
    hidden: jax.Array, kernel: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
    def body(total: jax.Array, piece: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        states, ids, weight = piece
        logits, log_z = _logits(states, kernel)
        return total + _picked(logits, log_z, ids, weight), None

    total, _ = jax.lax.scan(body, jnp.float32(0), (hidden, targets, weights))
    return total


def _logits(states: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """float32 logits `[C, V]` and their log-normaliser `[C]`."""
    contract = (((1,), (1,)), ((), ()))
    logits = jax.lax.dot_general(states, kernel, contract, preferred_element_type=jnp.float32)
    return logits, jax.nn.logsumexp(logits, axis=1)


def _picked(logits: jax.Array, log_z: jax.Array, ids: jax.Array, weight: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0]
    # where, not a product: a padded position with infinite logits must not make the sum NaN
    return jnp.sum(jnp.where(weight > 0, (log_z - chosen) * weight, 0.0))


def _forward(
    hidden: CustomVJPPrimal,
    kernel: CustomVJPPrimal,
    targets: CustomVJPPrimal,
    weights: CustomVJPPrimal,
) -> tuple[jax.Array, Any]:
    head = kernel.value
    d_head = jnp.zeros(head.shape, jnp.float32) if kernel.perturbed else None

    def body(carry: tuple[jax.Array, Any], piece: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        total, d_head = carry
        states, ids, weight = piece
        logits, log_z = _logits(states, head)
        total = total + _picked(logits, log_z, ids, weight)
        d_logits = jnp.exp(logits - log_z[:, None])
        d_logits = d_logits - jax.nn.one_hot(ids, head.shape[0], dtype=jnp.float32)
        d_logits = jnp.where(weight[:, None] > 0, d_logits * weight[:, None], 0.0)
        d_logits = d_logits.astype(head.dtype)
        dot = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
        d_states = dot(d_logits, head, (((1,), (0,)), ((), ()))).astype(states.dtype)
        if d_head is not None:
            d_head = d_head + dot(d_logits, states, (((0,), (0,)), ((), ())))
        return (total, d_head), d_states

    pieces = (hidden.value, targets.value, weights.value)
    (total, d_head), d_hidden = jax.lax.scan(body, (jnp.float32(0), d_head), pieces)
    # an empty array carries the head's dtype, which the float32 sum no longer has
    return total, (d_hidden, d_head, jnp.zeros((0,), head.dtype))


def _backward(residuals: Any, cotangent: jax.Array) -> tuple[Any, Any, None, None]:
    d_hidden, d_head, like = residuals
    scaled = (cotangent * d_hidden.astype(jnp.float32)).astype(d_hidden.dtype)
    if d_head is not None:
        d_head = (cotangent * d_head).astype(like.dtype)
    return scaled, d_head, None, None


_loss_sum = jax.custom_vjp(_plain_loss_sum)
_loss_sum.defvjp(_forward, _backward, symbolic_zeros=True)
