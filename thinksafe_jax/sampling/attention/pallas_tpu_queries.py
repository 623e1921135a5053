"""Paged decode attention for TPU: several queries of a slot, whose keys are read once.

    pages of slot b   | p0 | p1 | ... | p7 | p8 | p9 |       HBM
                      `-------- piece ------'
    buffers           | piece i | piece i + 1 |              VMEM: the next one is on its way,
                                                             also the next slot's first

A grid step is a slot, with all KV heads of the device. Keys and values are read once whatever the
number of queries, and only pages below the slot's length are read. In int8 they stay so up to the
product: the scales of keys multiply the scores, those of values the weights.

Where values lie behind their keys (head_dim 64) a row is read once and serves as both: zeros stand
behind the query, and the half of the output that sums keys is dropped.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from thinksafe_jax.models import AttentionRequest, Implementation
from thinksafe_jax.sampling.attention._kernels import PIECE_TOKENS, scaled, tpu_refusal
from thinksafe_jax.sampling.kv_cache import KvPages

_LEAST = -1e30  # a score of what a query may not see
_LANES = 128  # of a vector register: the last axis of a copy is a multiple of it


def several_queries(
    q: jax.Array, pages: KvPages, table: jax.Array, lengths: jax.Array
) -> jax.Array:
    """As `xla.several_queries`: q `[B, Q, N, H]`, lengths i32 `[B, Q]` -> `[B, Q, N, H]`."""
    pools = jax.tree.leaves(pages)  # keys, values unless behind them; in int8 their scales
    batch, queries, heads, head_dim = q.shape
    kv_heads, _, page_size, _ = pages.keys.shape
    group = heads // kv_heads
    # a query is to its keys what another head of its group is: both are rows of one product
    rows = scaled(q, pages)
    if pages.is_paired:
        rows = jnp.concatenate([rows, jnp.zeros_like(rows)], axis=-1)
    width = rows.shape[-1]  # of a row of the pool: H or 2 H
    rows = rows.reshape(batch, queries, kv_heads, group, width)
    rows = jnp.moveaxis(rows, 2, 1).reshape(batch, kv_heads, queries * group, width)
    block = pl.BlockSpec((1, *rows.shape[1:]), lambda b, *_: (b, 0, 0, 0))
    whole = pl.BlockSpec(memory_space=pl.ANY)
    out = pl.pallas_call(
        partial(_kernel, group=group, page_size=page_size),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch,),
            in_specs=[block, *[whole] * len(pools)],
            out_specs=block,
            scratch_shapes=[
                *(pltpu.VMEM(_two_pieces(pool), pool.dtype) for pool in pools),
                pltpu.SMEM((1,), jnp.int32),
                pltpu.SemaphoreType.DMA((2, len(pools))),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(rows.shape, jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        name="paged_attention_queries",
    )(lengths, table, rows, *pools)
    out = jnp.moveaxis(out.reshape(batch, kv_heads, queries, group, width), 1, 2)
    return out[..., width - head_dim :].reshape(q.shape).astype(q.dtype)


def paged_attention(
    q: jax.Array, pages: KvPages, table: jax.Array, lengths: jax.Array
) -> jax.Array:
    """As `xla.paged_attention`."""
    return several_queries(q[:, None], pages, table, lengths[:, None])[:, 0]


def _token_axis(pool: Any) -> int:
    """Which axis of a pool, and of its buffers, has tokens.

    Keys lie as `[K, pages, page_size, H]`, scales as `[K, pages, 2, page_size]`.
    """
    return 3 if pool.shape[2] == 2 else 2


def _two_pieces(pool: jax.Array) -> tuple[int, ...]:
    """Shape of a pool's buffers: `[2, K, PIECE_TOKENS, H]`, or `[2, K, 2, PIECE_TOKENS]`."""
    shape = [2, pool.shape[0], *pool.shape[2:]]
    shape[_token_axis(pool)] = PIECE_TOKENS
    return tuple(shape)


def _kernel(lengths: Any, table: Any, q: Any, *refs: Any, group: int, page_size: int) -> None:
    """One slot.

    Args:
        lengths: `[B, Q]` and table `[B, W]`, in SMEM.
        q: `[1, K, Q * group, H]`.
        refs: the pools; the output, as q; buffers, two pieces of each pool; pieces of the slots
            before, which tell the buffer that is next; semaphores, of a buffer and a pool.
    """
    pools = (len(refs) - 3) // 2
    out, buffers, (done, arrived) = refs[pools], refs[pools + 1 : -2], refs[-2:]
    slot, slots = pl.program_id(0), pl.num_programs(0)
    queries = lengths.shape[1]
    held = [(refs[n], buffers[n], arrived.at[:, n]) for n in range(pools)]
    copies = partial(_copies, lengths, table, held, page_size)

    @pl.when(slot == 0)
    def _() -> None:
        done[0] = 0
        copies("start", 0, 0, 0)

    first, count = done[0], pl.cdiv(lengths[slot, queries - 1], PIECE_TOKENS)
    row = jax.lax.broadcasted_iota(jnp.int32, (q.shape[2], PIECE_TOKENS), 0)
    limit = jnp.zeros(row.shape, jnp.int32)
    for query in range(queries):
        limit = jnp.where(row // group == query, lengths[slot, query], limit)

    def step(i: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        buffer = (first + i) % 2
        last = i + 1 == count

        @pl.when(jnp.logical_or(~last, slot + 1 < slots))
        def _() -> None:
            copies("start", jnp.where(last, slot + 1, slot), jnp.where(last, 0, i + 1), 1 - buffer)

        copies("wait", slot, i, buffer)
        return _attend(q, buffers, buffer, limit - i * PIECE_TOKENS, carry)

    none = jnp.zeros((*q.shape[1:3], 1), jnp.float32)
    start = jnp.full_like(none, _LEAST), none, jnp.zeros(q.shape[1:], jnp.float32)
    _, total, summed = jax.lax.fori_loop(0, count, step, start)
    out[0] = summed / total
    done[0] = first + count


def _copies(
    lengths: Any, table: Any, held: Any, page_size: int,
    act: str, slot: Any, piece: Any, buffer: Any,
) -> None:  # fmt: skip
    """Starts, or waits for, the copies of a piece's pages: of those that the slot has tokens in.

    Args:
        held: pool, buffers and semaphores of the keys, the values, and their scales.
        act: "start" or "wait".
    """
    pages = PIECE_TOKENS // page_size

    def copy_page(number: int) -> None:
        index = piece * pages + number

        @pl.when(index * page_size < lengths[slot, lengths.shape[1] - 1])
        def _() -> None:
            tokens = pl.ds(number * page_size, page_size)
            for pool, buffers, arrived in held:
                before = (slice(None),) * (_token_axis(pool) - 1)
                target = buffers.at[(buffer, *before, tokens)]
                copy = pltpu.make_async_copy(
                    pool.at[:, table[slot, index]], target, arrived.at[buffer]
                )
                getattr(copy, act)()

    for number in range(pages):
        copy_page(number)


def _attend(
    q: Any, buffers: Sequence[Any], buffer: Any, limit: jax.Array, carry: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """The running softmax with one more piece in it.

    Args:
        buffers: of keys, of values unless they lie behind them, and in int8 of their scales.
        limit: i32 `[Q * group, PIECE_TOKENS]`, tokens of the piece that each row sees.
        carry: maxima and sums `[K, Q * group, 1]`, outputs `[K, Q * group, H]`.
    """
    keys, values, *scales = buffers if len(buffers) > 1 else (*buffers, *buffers)
    position = jax.lax.broadcasted_iota(jnp.int32, limit.shape, 1)
    # what no page was read into is old, and may be anything: 0 times a NaN would be NaN
    token = jax.lax.broadcasted_iota(jnp.int32, (limit.shape[1], 1), 0)
    longest = jnp.max(limit)
    tops, totals, outs = [], [], []
    for head in range(q.shape[1]):
        top, total, out = (x[head] for x in carry)
        scores = jax.lax.dot_general(
            q[0, head], _in_dtype(keys[buffer, head], q.dtype), (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        if scales:
            scores = scores * scales[0][buffer, head, :1]
        scores = jnp.where(position < limit, scores, jnp.float32(_LEAST))
        new_top = jnp.maximum(top, scores.max(axis=-1, keepdims=True))
        weights = jnp.where(position < limit, jnp.exp(scores - new_top), jnp.float32(0))
        rescale = jnp.exp(top - new_top)
        value = _in_dtype(values[buffer, head], q.dtype)
        value = jnp.where(token < longest, value, jnp.zeros_like(value))
        shares = weights
        if scales:
            shares = weights * scales[0][buffer, head, 1:]
            shares = jnp.where(position < limit, shares, jnp.float32(0))
        part = jax.lax.dot_general(
            shares.astype(value.dtype), value, (((1,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        tops.append(new_top)
        totals.append(total * rescale + weights.sum(axis=-1, keepdims=True))
        outs.append(out * rescale + part)
    return jnp.stack(tops), jnp.stack(totals), jnp.stack(outs)


def _in_dtype(x: jax.Array, dtype: Any) -> jax.Array:
    """Keys or values for a product with queries: int8 goes by float32, which every chip has."""
    return x if x.dtype == dtype else x.astype(jnp.float32).astype(dtype)


def refuses(request: AttentionRequest) -> str | None:
    """Why the kernel cannot run a request, or None."""
    why = tpu_refusal(request, paired=True)
    if why is None and request.kv_dtype == "int8" and request.page_size % _LANES:
        return (
            f"with engine.kv_dtype int8 needs engine.page_size {_LANES}, whose scales fill a row "
            f"of lanes; it is {request.page_size}"
        )
    return why


IMPLEMENTATION = Implementation(paged_attention, refuses, order=2, several=several_queries)
