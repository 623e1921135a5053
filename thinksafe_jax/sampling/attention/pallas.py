"""Paged decode attention by the Pallas kernels that come with JAX, for TPU and GPU.

Both read only the pages below a slot's length. The work is cut into pieces of a fixed number of
tokens, never into a fixed number of pieces, so that the order in which a slot's sum is taken
depends on its own length alone.
"""

import jax
import jax.numpy as jnp

from thinksafe_jax.sampling.kv_cache import Pool

PIECE_TOKENS = 512
# JAX 0.11 calls it deprecated and names no other; where it is gone, "auto" takes `xla`
GPU_KERNEL = "jax.experimental.pallas.ops.gpu.paged_attention"


def tpu_paged_attention(
    q: jax.Array, pool: Pool, table: jax.Array, lengths: jax.Array
) -> jax.Array:
    """As `xla.paged_attention`, by `jax.experimental.pallas.ops.tpu.paged_attention`."""
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

    pages = PIECE_TOKENS // pool[0].shape[2]
    out = paged_attention(_scaled(q, pool), *pool, lengths, table, pages_per_compute_block=pages)
    return out.astype(q.dtype)


def gpu_paged_attention(
    q: jax.Array, pool: Pool, table: jax.Array, lengths: jax.Array, interpret: bool = False
) -> jax.Array:
    """As `xla.paged_attention`, by `jax.experimental.pallas.ops.gpu.paged_attention`."""
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

    page_size = pool[0].shape[2]
    pieces = table.shape[1] * page_size // PIECE_TOKENS
    out = paged_attention(
        _scaled(q, pool),
        *pool,
        table,
        lengths,
        k_splits=pieces,
        pages_per_compute_block=max(1, 128 // page_size),
        interpret=interpret,
    )
    return out.astype(q.dtype)


def _scaled(q: jax.Array, pool: Pool) -> jax.Array:
    """Both kernels leave the scale of the scores to the caller."""
    return (q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)).astype(pool[0].dtype)
