"""Attention in plain XLA with one score matrix: anywhere, for sequences of a block or two."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from thinksafe_jax.models.attention_request import Implementation


def plain_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Attention within segments with a score matrix of T x T; shapes as in `causal_attention`."""
    batch, length, heads, head_dim = q.shape
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    order = jnp.arange(length)
    causal = order[:, None] >= order[None]
    mask = causal[None] & (segment_ids[:, :, None] == segment_ids[:, None])
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, jnp.float32(-1e30))
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(q.shape)


IMPLEMENTATION = Implementation(plain_attention, lambda request: None, order=4)
