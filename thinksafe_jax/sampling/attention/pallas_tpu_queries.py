"""Paged decode attention for TPU: several queries of a slot, whose keys are read once.

    pages of slot b   | p0 | p1 | ... | p7 | p8 | p9 |       HBM
                      `-------- piece ------'
    buffers           | piece i | piece i + 1 |              VMEM: the next one is on its way,
                                                             also the next slot's first

A grid step is a slot, with all KV heads of the device. Keys and values are read once whatever the
number of queries, and only pages below the slot's length are read.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from thinksafe_jax.models import Implementation
from thinksafe_jax.sampling.attention._kernels import PIECE_TOKENS, scaled, tpu_refusal
from thinksafe_jax.sampling.kv_cache import KvPages

_LEAST = -1e30  # a score of what a query may not see


def several_queries(
    q: jax.Array, pages: KvPages, table: jax.Array, lengths: jax.Array
) -> jax.Array:
    """As `xla.several_queries`: q `[B, Q, N, H]`, lengths i32 `[B, Q]` -> `[B, Q, N, H]`."""
    keys, values = pages.keys, pages.values
    batch, queries, heads, head_dim = q.shape
    kv_heads, _, page_size, _ = keys.shape
    group = heads // kv_heads
    # a query is to its keys what another head of its group is: both are rows of one product
    rows = scaled(q, pages).reshape(batch, queries, kv_heads, group, head_dim)
    rows = jnp.moveaxis(rows, 2, 1).reshape(batch, kv_heads, queries * group, head_dim)
    block = pl.BlockSpec((1, *rows.shape[1:]), lambda b, *_: (b, 0, 0, 0))
    whole = pl.BlockSpec(memory_space=pl.ANY)
    piece = (2, kv_heads, PIECE_TOKENS, head_dim)
    out = pl.pallas_call(
        partial(_kernel, group=group, page_size=page_size),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch,),
            in_specs=[block, whole, whole],
            out_specs=block,
            scratch_shapes=[
                pltpu.VMEM(piece, keys.dtype),
                pltpu.VMEM(piece, values.dtype),
                pltpu.SMEM((1,), jnp.int32),
                pltpu.SemaphoreType.DMA((2, 2)),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(rows.shape, jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        name="paged_attention_queries",
    )(lengths, table, rows, keys, values)
    out = jnp.moveaxis(out.reshape(batch, kv_heads, queries, group, head_dim), 1, 2)
    return out.reshape(q.shape).astype(q.dtype)


def paged_attention(
    q: jax.Array, pages: KvPages, table: jax.Array, lengths: jax.Array
) -> jax.Array:
    """As `xla.paged_attention`."""
    return several_queries(q[:, None], pages, table, lengths[:, None])[:, 0]


def _kernel(
    lengths: Any, table: Any, q: Any, keys: Any, values: Any, out: Any,
    key_buffer: Any, value_buffer: Any, done: Any, arrived: Any,
    *, group: int, page_size: int,
) -> None:  # fmt: skip
    """One slot.

    Many parameters: Pallas hands a kernel every input, output, buffer and semaphore.

    Args:
        lengths: `[B, Q]` and table `[B, W]`, in SMEM.
        q, out: `[1, K, Q * group, H]`.
        key_buffer, value_buffer: two pieces `[2, K, PIECE_TOKENS, H]`.
        done: pieces of the slots before: which buffer is next.
        arrived: semaphores, of a buffer's keys and values.
    """
    slot, slots = pl.program_id(0), pl.num_programs(0)
    queries = lengths.shape[1]
    held = (keys, key_buffer, arrived.at[:, 0]), (values, value_buffer, arrived.at[:, 1])
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
        return _attend(q, key_buffer, value_buffer, buffer, limit - i * PIECE_TOKENS, carry)

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
        held: pool, buffers and semaphores of the keys, and of the values.
        act: "start" or "wait".
    """
    pages = PIECE_TOKENS // page_size

    def copy_page(number: int) -> None:
        index = piece * pages + number

        @pl.when(index * page_size < lengths[slot, lengths.shape[1] - 1])
        def _() -> None:
            tokens = pl.ds(number * page_size, page_size)
            for pool, buffers, arrived in held:
                target = buffers.at[buffer, :, tokens]
                copy = pltpu.make_async_copy(
                    pool.at[:, table[slot, index]], target, arrived.at[buffer]
                )
                getattr(copy, act)()

    for number in range(pages):
        copy_page(number)


def _attend(
    q: Any, keys: Any, values: Any, buffer: Any, limit: jax.Array, carry: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """The running softmax with one more piece in it.

    Args:
        limit: i32 `[Q * group, PIECE_TOKENS]`, tokens of the piece that each row sees.
        carry: maxima and sums `[K, Q * group, 1]`, outputs `[K, Q * group, H]`.
    """
    position = jax.lax.broadcasted_iota(jnp.int32, limit.shape, 1)
    # what no page was read into is old, and may be anything: 0 times a NaN would be NaN
    token = jax.lax.broadcasted_iota(jnp.int32, (limit.shape[1], 1), 0)
    longest = jnp.max(limit)
    tops, totals, outs = [], [], []
    for head in range(q.shape[1]):
        top, total, out = (x[head] for x in carry)
        scores = jax.lax.dot_general(
            q[0, head], keys[buffer, head], (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        scores = jnp.where(position < limit, scores, jnp.float32(_LEAST))
        new_top = jnp.maximum(top, scores.max(axis=-1, keepdims=True))
        weights = jnp.where(position < limit, jnp.exp(scores - new_top), jnp.float32(0))
        rescale = jnp.exp(top - new_top)
        value = values[buffer, head]
        value = jnp.where(token < longest, value, jnp.zeros_like(value))
        part = jax.lax.dot_general(
            weights.astype(value.dtype), value, (((1,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        tops.append(new_top)
        totals.append(total * rescale + weights.sum(axis=-1, keepdims=True))
        outs.append(out * rescale + part)
    return jnp.stack(tops), jnp.stack(totals), jnp.stack(outs)


IMPLEMENTATION = Implementation(paged_attention, tpu_refusal, order=2, several=several_queries)
