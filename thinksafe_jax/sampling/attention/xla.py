"""Paged decode attention that runs anywhere (XLA), and the oracle of the others.

It walks the tables in blocks of fixed size with a running softmax, up to the longest live slot:
cost follows live tokens, and a block beyond a slot's own length changes nothing, to the bit, so no
slot's result depends on its neighbours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from thinksafe_jax.models import Implementation
from thinksafe_jax.sampling.kv_cache import KvPages

BLOCK_TOKENS = 128
_CPU_BLOCK_TOKENS = 64  # short contexts dominate on a CPU, and a step of its loop costs little
_CPU_GROUP = 4  # slots of like length that walk together, at least
_CPU_GROUPS = 4  # at most: each is a loop of its own in every layer, which has to be compiled


def paged_attention(
    q: Float[Array, "B N H"],
    pages: KvPages,
    table: Int32[Array, "B W"],
    lengths: Int32[Array, " B"],
) -> Float[Array, "B N H"]:
    """Attention of the newest token over the first `lengths` tokens of each slot.

    Args:
        q: `[B, N, H]`.
        pages: keys and values `[K, pages, page_size, H]`.
        table: i32 `[B, W]`.
        lengths: i32 `[B]`, at least 1.

    Returns:
        `[B, N, H]` in q's dtype.
    """
    return several_queries(q[:, None], pages, table, lengths[:, None])[:, 0]


def several_queries(
    q: Float[Array, "B Q N H"],
    pages: KvPages,
    table: Int32[Array, "B W"],
    lengths: Int32[Array, "B Q"],
) -> Float[Array, "B Q N H"]:
    """`paged_attention` of Q queries of each slot, whose keys and values are read once.

    Args:
        q: `[B, Q, N, H]`.
        lengths: i32 `[B, Q]`, of each query, not falling along Q.

    Returns:
        `[B, Q, N, H]` in q's dtype.
    """
    if jax.default_backend() != "cpu":
        return several_in_one_walk(q, pages, table, lengths)
    order = jnp.argsort(lengths[:, -1])
    back = jnp.argsort(order)
    q, table, lengths = q[order], table[order], lengths[order]
    size = max(_CPU_GROUP, -(-len(q) // _CPU_GROUPS))
    groups = [slice(first, first + size) for first in range(0, len(q), size)]
    parts = [_attend(q[g], pages, table[g], lengths[g], _CPU_BLOCK_TOKENS) for g in groups]
    return jnp.concatenate(parts)[back]


def one_walk(
    q: Float[Array, "B N H"],
    pages: KvPages,
    table: Int32[Array, "B W"],
    lengths: Int32[Array, " B"],
) -> Float[Array, "B N H"]:
    """`paged_attention` in one loop over all slots, as accelerators run it."""
    return several_in_one_walk(q[:, None], pages, table, lengths[:, None])[:, 0]


def several_in_one_walk(
    q: Float[Array, "B Q N H"],
    pages: KvPages,
    table: Int32[Array, "B W"],
    lengths: Int32[Array, "B Q"],
) -> Float[Array, "B Q N H"]:
    """`several_queries` in one loop over all slots, as accelerators run it."""
    return _attend(q, pages, table, lengths, BLOCK_TOKENS)


def _attend(
    q: jax.Array, pages: KvPages, table: jax.Array, lengths: jax.Array, block_tokens: int
) -> jax.Array:
    """`several_queries` of slots that all go as far as the longest of them.

    What differs between the queries of a slot is how far each may look.
    """
    kv_heads, _, page_size, _ = pages.keys.shape
    batch, queries, heads, head_dim = q.shape
    per_block = max(1, block_tokens // page_size)
    tokens = per_block * page_size
    # whole blocks: a slice that goes beyond the end would begin further to the left
    table = jnp.pad(table, ((0, 0), (0, -table.shape[1] % per_block)))
    group = heads // kv_heads
    # int8 is exact in the queries' dtype: a block is widened at a time, never the pool
    grouped = _grouped(q, kv_heads, q.dtype if pages.has_scales else pages.keys.dtype)
    limits = jnp.repeat(lengths, group, axis=1)[None, :, :, None]  # [1, B, Q G, 1]

    def block(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        page_ids = jax.lax.dynamic_slice_in_dim(table, i * per_block, per_block, axis=1)
        position = i * tokens + jnp.arange(tokens, dtype=jnp.int32)
        in_length = (position[None] < lengths[:, -1:])[None]  # [1, B, tokens]
        live = position[None, None, None] < limits
        return _with_block(grouped, pages, page_ids, live, in_length, carry)

    total, out = jnp.zeros(grouped.shape[:3], jnp.float32), jnp.zeros(grouped.shape, jnp.float32)
    start = jnp.full(total.shape, -1e30, jnp.float32), total, out
    blocks = (lengths.max() + tokens - 1) // tokens
    _, total, out = jax.lax.fori_loop(0, blocks, block, start)
    out = (out / total[..., None]).reshape(kv_heads, batch, queries, group, head_dim)
    return jnp.moveaxis(out, 0, 2).reshape(q.shape).astype(q.dtype)


def _with_block(
    grouped: jax.Array,
    pages: KvPages,
    page_ids: jax.Array,
    live: jax.Array,
    in_length: jax.Array,
    carry: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """The running softmax with one more block in it.

    In int8 the scales of keys multiply the scores, and those of values the weights.

    Args:
        grouped: queries `[K, B, Q G, H]`.
        page_ids: of the block, `[B, N]`.
        live: bool `[1, B, Q G, tokens]`, what each query sees.
        in_length: bool `[1, B, tokens]`, what the slot has written.
        carry: maxima and sums `[K, B, Q G]`, outputs `[K, B, Q G, H]`.
    """
    top, total, out = carry
    dtype = grouped.dtype
    scores = jnp.einsum(
        "kbgh,kbsh->kbgs",
        grouped,
        _read(pages, "keys", page_ids).astype(dtype),
        preferred_element_type=jnp.float32,
    )
    scales = _read_scales(pages.scales, page_ids) if pages.has_scales else ()
    if scales:
        scores = scores * scales[0]
    scores = jnp.where(live, scores, jnp.float32(-1e30))
    new_top = jnp.maximum(top, scores.max(axis=-1))
    weights = jnp.where(live, jnp.exp(scores - new_top[..., None]), jnp.float32(0))
    rescale = jnp.exp(top - new_top)
    total = total * rescale + weights.sum(axis=-1)
    if scales:
        weights = jnp.where(live, weights * scales[1], jnp.float32(0))
    values = _read(pages, "values", page_ids).astype(dtype)
    part = jnp.einsum(
        "kbgs,kbsh->kbgh",
        weights.astype(dtype),
        # also here: a weight of 0 times a NaN behind the length would be NaN
        jnp.where(in_length[..., None], values, jnp.zeros((), dtype)),
        preferred_element_type=jnp.float32,
    )
    return new_top, total, out * rescale[..., None] + part


def _read(pages: KvPages, which: str, page_ids: jax.Array) -> jax.Array:
    """Keys or values `[K, B, tokens, H]` of the pages `[B, N]` of each slot.

    Args:
        which: "keys" or "values".
    """
    pool = pages.keys if pages.is_paired else getattr(pages, which)
    gathered = pool.at[:, page_ids].get(mode="promise_in_bounds")
    kv_heads, batch, _, _, width = gathered.shape
    rows = gathered.reshape(kv_heads, batch, -1, width)
    if not pages.is_paired:
        return rows
    return rows[..., : width // 2] if which == "keys" else rows[..., width // 2 :]


def _read_scales(pool: jax.Array, page_ids: jax.Array) -> tuple[jax.Array, ...]:
    """Scales of keys and of values of the pages `[B, N]` of each slot: each `[K, B, 1, tokens]`."""
    gathered = pool.at[:, page_ids].get(mode="promise_in_bounds")  # [K, B, N, 2, page_size]
    shape = (*gathered.shape[:2], 1, -1)
    return tuple(gathered[:, :, :, row].reshape(shape) for row in range(2))


def _grouped(q: jax.Array, kv_heads: int, dtype: jnp.dtype) -> jax.Array:
    """Scaled queries `[B, Q, N, H]` as `[K, B, Q G, H]`, where G query heads share a KV head.

    What the matmul runs over in parallel comes first, so nothing is transposed. A query is to its
    keys what another head of its group is, so both are rows of one matmul.
    """
    batch, queries, heads, head_dim = q.shape
    grouped = q.reshape(batch, queries, kv_heads, heads // kv_heads, head_dim).astype(dtype)
    grouped = jnp.moveaxis(grouped * jnp.asarray(head_dim**-0.5, dtype), 2, 0)
    return grouped.reshape(kv_heads, batch, -1, head_dim)


IMPLEMENTATION = Implementation(
    paged_attention, lambda request: None, order=2, several=several_queries
)
