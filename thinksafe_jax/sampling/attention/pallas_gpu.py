"""Paged decode attention for GPU: several queries of a slot, whose keys are read once.

    grid      slot x KV head x part       a part is PART_TOKENS tokens of the slot's table
    a part    | p0 | p1 | ... | pN |      a loop over blocks of pages with a running softmax
    then      slot x KV head              the parts of a slot are merged, in their order

A part behind the slot's length reads and writes nothing, so cost follows live tokens, whatever the
width of the table. Parts have a fixed number of tokens: the order in which a slot's sum is taken
depends on its length alone. All is float32 but the operands of the products and the output.
In int8 the scales of keys multiply the scores, those of values the weights.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from thinksafe_jax.models import (
    AttentionRequest,
    Implementation,
    compiler_params,
    float32_dot,
    triton_refusal,
)
from thinksafe_jax.sampling.attention._kernels import page_refusal, scaled
from thinksafe_jax.sampling.kv_cache import KvPages

PART_TOKENS = 2048
_BLOCK_TOKENS = 64
_LEAST = -1e30  # a score of what a query may not see
_ROWS = 16  # the least that a tensor core multiplies
_WARPS, _STAGES = 4, 3


def several_queries(
    q: jax.Array,
    pages: KvPages,
    table: jax.Array,
    lengths: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """As `xla.several_queries`: q `[B, Q, N, H]`, lengths i32 `[B, Q]` -> `[B, Q, N, H]`."""
    batch, queries, heads, head_dim = q.shape
    kv_heads, _, page_size, _ = pages.keys.shape
    group = heads // kv_heads
    # a query is to its keys what another head of its group is: both are rows of one product
    rows = jnp.moveaxis(scaled(q, pages).reshape(batch, queries, kv_heads, group, head_dim), 2, 1)
    rows = rows.reshape(batch, kv_heads, queries * group, head_dim)
    padded = max(_ROWS, pl.next_power_of_2(queries * group))
    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, padded - queries * group), (0, 0)))
    limits = jnp.repeat(lengths, group, axis=1)
    limits = jnp.pad(limits, ((0, 0), (0, padded - queries * group)), mode="edge")
    width = table.shape[1] * page_size
    parts = pl.cdiv(width, PART_TOKENS)
    out, top, total = _parts(rows, pages, table, limits, parts=parts, interpret=interpret)
    out = _merged(out, top, total, limits, interpret=interpret)[:, :, : queries * group]
    out = jnp.moveaxis(out.reshape(batch, kv_heads, queries, group, head_dim), 1, 2)
    return out.reshape(q.shape).astype(q.dtype)


def paged_attention(
    q: jax.Array,
    pages: KvPages,
    table: jax.Array,
    lengths: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """As `xla.paged_attention`."""
    out = several_queries(q[:, None], pages, table, lengths[:, None], interpret=interpret)
    return out[:, 0]


def _parts(
    rows: jax.Array,
    pages: KvPages,
    table: jax.Array,
    limits: jax.Array,
    *,
    parts: int,
    interpret: bool,
) -> tuple[jax.Array, ...]:
    """Outputs, maxima and sums of every part.

    Args:
        rows: `[B, K, R, H]`, the queries of a KV head.
        limits: i32 `[B, R]`, how far each may look.

    Returns:
        f32 `[B, K, parts, R, H]`, and twice `[B, K, parts, R]`; undefined behind a slot's length.
    """
    batch, kv_heads, count, head_dim = rows.shape
    pools = jax.tree.leaves(pages)
    whole = [pl.BlockSpec((None, *x.shape[1:]), lambda b, h, p: (h, 0, 0, 0)) for x in pools]
    per_row = jax.ShapeDtypeStruct((batch, kv_heads, parts, count), jnp.float32)
    small = pl.BlockSpec((None, None, None, count), lambda b, h, p: (b, h, p, 0))
    return pl.pallas_call(
        partial(_part_kernel, page_size=pages.page_size),
        grid=(batch, kv_heads, parts),
        in_specs=[
            pl.BlockSpec((None, None, count, head_dim), lambda b, h, p: (b, h, 0, 0)),
            pl.BlockSpec((None, table.shape[1]), lambda b, h, p: (b, 0)),
            pl.BlockSpec((None, count), lambda b, h, p: (b, 0)),
            *whole,
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, count, head_dim), lambda b, h, p: (b, h, p, 0, 0)),
            small,
            small,
        ],
        out_shape=[
            jax.ShapeDtypeStruct((*per_row.shape, head_dim), jnp.float32),
            per_row,
            per_row,
        ],
        compiler_params=compiler_params(_WARPS, _STAGES),
        interpret=interpret,
        name="paged_attention_parts",
    )(rows, table, limits, *pools)


def _part_kernel(q_ref: Any, table: Any, limits: Any, *refs: Any, page_size: int) -> None:
    """One part of one KV head of one slot.

    Args:
        q_ref: `[R, H]`.
        table: `[W]` and limits `[R]`.
        refs: keys and values `[pages, page_size, H]`, in int8 their scales
            `[pages, 2, page_size]`; the outputs `[R, H]`, `[R]` and `[R]`.
    """
    (keys, values, *scales), (out_ref, top_ref, total_ref) = refs[:-3], refs[-3:]
    count, head_dim = q_ref.shape
    first = pl.program_id(2) * PART_TOKENS
    longest = jnp.max(limits[...])
    blocks = pl.cdiv(jnp.minimum(longest - first, PART_TOKENS), _BLOCK_TOKENS)
    per_block = _BLOCK_TOKENS // page_size

    def block(i: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top, total, out = carry
        begin = first + i * _BLOCK_TOKENS
        q = q_ref[...]
        if per_block > 1:  # several pages
            ids = table[pl.ds(begin // page_size, per_block)]
            at = (ids,)
        else:  # a page, or a piece of one
            ids = table[begin // page_size]
            at = (ids, pl.ds(begin % page_size, _BLOCK_TOKENS))
        k = keys[at].reshape(_BLOCK_TOKENS, head_dim)
        scores = float32_dot(q, k.astype(q.dtype).T)
        position = begin + jnp.arange(_BLOCK_TOKENS, dtype=jnp.int32)
        live = position[None, :] < limits[...][:, None]
        if scales:
            scores = scores * _scales_of(scales[0], 0, at)
        scores = jnp.where(live, scores, _LEAST)
        new_top = jnp.maximum(top, scores.max(axis=-1))
        weights = jnp.where(live, jnp.exp(scores - new_top[:, None]), 0.0)
        rescale = jnp.exp(top - new_top)
        total = total * rescale + weights.sum(axis=-1)
        if scales:
            weights = jnp.where(live, weights * _scales_of(scales[0], 1, at), 0.0)
        v = values[at].reshape(_BLOCK_TOKENS, head_dim).astype(q.dtype)
        # also here: a weight of 0 times a NaN behind the length would be NaN
        v = jnp.where((position < longest)[:, None], v, jnp.zeros((), v.dtype))
        return new_top, total, out * rescale[:, None] + float32_dot(weights.astype(v.dtype), v)

    @pl.when(blocks > 0)
    def _() -> None:
        none = jnp.zeros((count,), jnp.float32)
        start = none + _LEAST, none, jnp.zeros((count, head_dim), jnp.float32)
        top, total, out = jax.lax.fori_loop(0, blocks, block, start)
        out_ref[...], top_ref[...], total_ref[...] = out, top, total


def _scales_of(scales: Any, row: int, at: tuple) -> jax.Array:
    """Scales `[1, block]` of keys (row 0) or values (row 1)."""
    return scales[(at[0], row, *at[1:])].reshape(1, _BLOCK_TOKENS)


def _merged(
    out: jax.Array, top: jax.Array, total: jax.Array, limits: jax.Array, *, interpret: bool
) -> jax.Array:
    """Attention f32 `[B, K, R, H]` of the parts of `_parts`."""
    batch, kv_heads, parts, count, head_dim = out.shape
    small = pl.BlockSpec((None, None, parts, count), lambda b, h: (b, h, 0, 0))
    return pl.pallas_call(
        _merge_kernel,
        grid=(batch, kv_heads),
        in_specs=[
            pl.BlockSpec((None, None, *out.shape[2:]), lambda b, h: (b, h, 0, 0, 0)),
            small,
            small,
            pl.BlockSpec((None, count), lambda b, h: (b, 0)),
        ],
        out_specs=pl.BlockSpec((None, None, count, head_dim), lambda b, h: (b, h, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((batch, kv_heads, count, head_dim), jnp.float32),
        compiler_params=compiler_params(_WARPS, 1),
        interpret=interpret,
        name="paged_attention_merge",
    )(out, top, total, limits)


def _merge_kernel(outs: Any, tops: Any, totals: Any, limits: Any, out_ref: Any) -> None:
    """The parts of one KV head of one slot, one after the other."""
    parts = pl.cdiv(jnp.max(limits[...]), PART_TOKENS)

    def merge(i: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top, total, out = carry
        new_top = jnp.maximum(top, tops[i])
        before, now = jnp.exp(top - new_top), jnp.exp(tops[i] - new_top)
        out = out * before[:, None] + outs[i] * now[:, None]
        return new_top, total * before + totals[i] * now, out

    first = tops[0], totals[0], outs[0]
    _, total, out = jax.lax.fori_loop(1, parts, merge, first)
    out_ref[...] = out / total[:, None]


def refuses(request: AttentionRequest) -> str | None:
    """Why the kernel cannot run a request, or None."""
    return triton_refusal(request) or page_refusal(request)


IMPLEMENTATION = Implementation(paged_attention, refuses, order=1, several=several_queries)
