"""Decode attention: one query a slot over the pages of its KV cache.

This is the implementation that runs anywhere (XLA). It walks the tables in blocks of fixed size
with a running softmax, up to the longest live slot: cost follows live tokens, and a block beyond a
slot's own length changes nothing, to the bit, so no slot's result depends on its neighbours.
"""

import jax
import jax.numpy as jnp

from thinksafe_jax.sampling.cache import Pool

BLOCK_TOKENS = 128


def paged_attention(q: jax.Array, pool: Pool, table: jax.Array, lengths: jax.Array) -> jax.Array:
    """Attention of the newest token over the first `lengths` tokens of each slot.

    Args:
        q: `[B, N, H]`.
        pool: keys and values `[pages, page_size, K, H]`.
        table: i32 `[B, W]`, W a multiple of the pages in a block.
        lengths: i32 `[B]`, at least 1.

    Returns:
        `[B, N, H]` in q's dtype.
    """
    keys, values = pool
    page_size, kv_heads = keys.shape[1:3]
    batch, heads, head_dim = q.shape
    per_block = pages_per_block(page_size)
    tokens = per_block * page_size
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, head_dim).astype(keys.dtype)
    grouped = grouped * jnp.asarray(head_dim**-0.5, keys.dtype)

    def block(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top, total, out = carry
        pages = jax.lax.dynamic_slice_in_dim(table, i * per_block, per_block, axis=1)
        k = keys[pages].reshape(batch, tokens, kv_heads, head_dim)
        v = values[pages].reshape(batch, tokens, kv_heads, head_dim)
        scores = jnp.einsum("bkgh,bskh->bkgs", grouped, k, preferred_element_type=jnp.float32)
        position = i * tokens + jnp.arange(tokens, dtype=jnp.int32)
        live = position[None] < lengths[:, None]
        scores = jnp.where(live[:, None, None], scores, jnp.float32(-1e30))
        new_top = jnp.maximum(top, scores.max(axis=-1))
        weights = jnp.where(
            live[:, None, None], jnp.exp(scores - new_top[..., None]), jnp.float32(0)
        )
        rescale = jnp.exp(top - new_top)
        total = total * rescale + weights.sum(axis=-1)
        part = jnp.einsum(
            "bkgs,bskh->bkgh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return new_top, total, out * rescale[..., None] + part

    shape = grouped.shape
    start = (
        jnp.full(shape[:3], -1e30, jnp.float32),
        jnp.zeros(shape[:3], jnp.float32),
        jnp.zeros(shape, jnp.float32),
    )
    blocks = (lengths.max() + tokens - 1) // tokens
    _, total, out = jax.lax.fori_loop(0, blocks, block, start)
    return (out / total[..., None]).reshape(q.shape).astype(q.dtype)


def pages_per_block(page_size: int) -> int:
    """Pages that one block of the walk covers."""
    return max(1, BLOCK_TOKENS // page_size)
