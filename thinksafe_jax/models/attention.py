"""Causal self-attention over fresh tokens: training, prefill and the guard.

Several rows may share one sequence (packing): a token sees the tokens of its own segment at or
before it. Memory is linear in the length: queries go in blocks, and the backward pass recomputes
each block's scores instead of keeping them.
"""

import jax
import jax.numpy as jnp

_BLOCK = 512  # queries whose scores exist at the same time


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Attention within segments, softmax in float32.

    Args:
        q: `[B, T, N, H]`.
        k, v: `[B, T, K, H]`, N a multiple of K.
        segment_ids: i32 `[B, T]`; 0 is padding, which sees only padding.

    Returns:
        `[B, T, N, H]` in q's dtype.
    """
    length = q.shape[1]
    if length <= _BLOCK:
        return _block_attention(q, k, v, segment_ids, segment_ids, jnp.int32(0))
    pad = -length % _BLOCK
    blocks = (length + pad) // _BLOCK

    def split(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [blocks, B, _BLOCK, ...]
        widths = [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, widths).reshape(x.shape[0], blocks, _BLOCK, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    @jax.checkpoint
    def one(block: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q_block, segments, start = block
        return _block_attention(q_block, k, v, segments, segment_ids, start)

    starts = jnp.arange(blocks, dtype=jnp.int32) * _BLOCK
    out = jnp.moveaxis(jax.lax.map(one, (split(q), split(segment_ids), starts)), 0, 1)
    return out.reshape(q.shape[0], length + pad, *q.shape[2:])[:, :length]


def _block_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    q_start: jax.Array,
) -> jax.Array:
    batch, queries, heads, head_dim = q.shape
    groups = heads // k.shape[2]
    grouped = q.reshape(batch, queries, k.shape[2], groups, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    rows = q_start + jnp.arange(queries, dtype=jnp.int32)
    causal = rows[:, None] >= jnp.arange(k.shape[1], dtype=jnp.int32)[None]
    mask = causal[None] & (q_segments[:, :, None] == k_segments[:, None])
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, jnp.float32(-1e30))
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(q.shape)
