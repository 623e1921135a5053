"""Attention for GPU in one kernel, with its own derivative: a Pallas kernel by Triton.

    forward, and d_q      a block of queries    x    blocks of keys from where its first row
                                                     begins to the diagonal
    d_k and d_v           a block of keys       x    blocks of queries from the diagonal to where
                                                     its last row ends

Blocks that no token may see are not read, so packing many short rows costs what the rows cost
alone. Of each layer only the inputs, the output and one float a query are kept (Dao et al.,
FlashAttention-2); products of 16-bit operands are summed in float32, and so is the softmax.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from thinksafe_jax.models.attention_request import SAVED_NAMES, AttentionRequest, Implementation
from thinksafe_jax.models.triton import compiler_params, float32_dot, triton_refusal

_MASKED = -1e30
_LOG2_E = math.log2(math.e)


class _Blocks(NamedTuple):
    """Of a kernel: tokens of a block of queries and of keys, and how Triton runs it."""

    queries: int
    keys: int
    warps: int
    stages: int

    @property
    def compiler(self) -> Any:
        return compiler_params(self.warps, self.stages)


_FORWARD = _Blocks(64, 64, 4, 3)
_D_QUERIES = _Blocks(64, 64, 4, 2)
_D_KEYS = _Blocks(32, 64, 4, 3)
_WIDEST = 128  # head_dim whose blocks fit in shared memory
_MULTIPLE = 64  # of the length: every block above divides it


class _Rows(NamedTuple):
    """What a kernel has to know of the rows, each i32 `[B, T]`."""

    segments: jax.Array
    starts: jax.Array  # the first position of a token's row
    ends: jax.Array  # the position behind its last


def flash_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
    saved_names: tuple[str, str] = ("", ""),
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Attention within segments; shapes as in `causal_attention`.

    Args:
        saved_names: names of the output and of the log-sum-exp for `jax.checkpoint` policies.
    """
    length = q.shape[1]
    pad = -length % _MULTIPLE
    q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
    rows = _rows_of(jnp.pad(segment_ids, ((0, 0), (0, pad))))
    out: Any = _attend(saved_names, interpret, q, k, v, rows)
    return out[:, :length]


def _rows_of(segments: jax.Array) -> _Rows:
    """Where the row of each token begins and ends."""
    at = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32)[None], segments.shape)
    change = segments[:, 1:] != segments[:, :-1]
    begins = jnp.pad(change, ((0, 0), (1, 0)), constant_values=True)
    last = jnp.pad(change, ((0, 0), (0, 1)), constant_values=True)
    starts = jax.lax.cummax(jnp.where(begins, at, 0), axis=1)
    ends = jax.lax.cummin(jnp.where(last, at + 1, segments.shape[1]), axis=1, reverse=True)
    return _Rows(segments, starts, ends)


def _span(block: Any, size: int) -> tuple[Any, jax.Array]:
    """The slice of a block, and its positions."""
    first = block * size
    return pl.ds(first, size), first + jnp.arange(size, dtype=jnp.int32)


def _visible(
    segments: Any, of_queries: Any, of_keys: Any, query: jax.Array, key: jax.Array
) -> jax.Array:
    """Bool `[queries, keys]`: which keys each query may see.

    Args:
        segments: of the row, `[T]`.
        of_queries, of_keys: slices of it.
        query, key: their positions.
    """
    same = segments[of_queries][:, None] == segments[of_keys][None, :]
    return (query[:, None] >= key[None, :]) & same


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """float32 `[queries, keys]`, in units of log 2: exp2 is what the hardware has."""
    return float32_dot(q, k.T) * (q.shape[1] ** -0.5 * _LOG2_E)


def _forward_kernel(
    q_ref: Any, keys: Any, values: Any, segments: Any, starts: Any, out_ref: Any, log_sum: Any,
    *, blocks: _Blocks,
) -> None:  # fmt: skip
    """A block of queries `[queries, H]` of one head, its keys `[T, H]`."""
    number = pl.num_programs(0) - 1 - pl.program_id(0)  # the longest first
    of_block, query = _span(number, blocks.queries)
    q = q_ref[...]

    def add(j: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        highest, total, out = carry
        span, key = _span(j, blocks.keys)
        scores = jnp.where(
            _visible(segments, of_block, span, query, key),
            _scores(q, keys[span, :]),
            _MASKED,
        )
        new = jnp.maximum(highest, scores.max(axis=1))
        weights, old = jnp.exp2(scores - new[:, None]), jnp.exp2(highest - new)
        v = values[span, :]
        out = out * old[:, None] + float32_dot(weights.astype(v.dtype), v)
        return new, total * old + weights.sum(axis=1), out

    none = jnp.zeros((blocks.queries,), jnp.float32)
    start = none + _MASKED, none, jnp.zeros(q.shape, jnp.float32)
    first = starts[number * blocks.queries] // blocks.keys
    behind = pl.cdiv((number + 1) * blocks.queries, blocks.keys)
    highest, total, out = jax.lax.fori_loop(first, behind, add, start)
    out_ref[...] = (out / total[:, None]).astype(out_ref.dtype)
    log_sum[...] = highest + jnp.log2(total)


def _d_queries_kernel(
    q_ref: Any, keys: Any, values: Any, segments: Any, starts: Any, d_out: Any, log_sum: Any,
    d_sum: Any, d_q: Any, *, blocks: _Blocks,
) -> None:  # fmt: skip
    """A block of queries `[queries, H]` of one head, its keys `[T, H]`.

    Many parameters: a kernel has one for each array.
    """
    number = pl.num_programs(0) - 1 - pl.program_id(0)
    of_block, query = _span(number, blocks.queries)
    q, d_o, of_query, shift = q_ref[...], d_out[...], log_sum[...], d_sum[...]

    def add(j: Any, so_far: jax.Array) -> jax.Array:
        span, key = _span(j, blocks.keys)
        k = keys[span, :]
        weights = jnp.exp2(_scores(q, k) - of_query[:, None])
        d_weights = float32_dot(d_o, values[span, :].T)
        visible = _visible(segments, of_block, span, query, key)
        d_scores = jnp.where(visible, weights * (d_weights - shift[:, None]), 0.0)
        return so_far + float32_dot(d_scores.astype(k.dtype), k)

    first = starts[number * blocks.queries] // blocks.keys
    behind = pl.cdiv((number + 1) * blocks.queries, blocks.keys)
    total = jax.lax.fori_loop(first, behind, add, jnp.zeros(q.shape, jnp.float32))
    d_q[...] = (total * q.shape[1] ** -0.5).astype(d_q.dtype)


def _d_keys_kernel(
    queries: Any, k_ref: Any, v_ref: Any, segments: Any, ends: Any, d_out: Any, log_sum: Any,
    d_sum: Any, d_k: Any, d_v: Any, *, blocks: _Blocks, group: int,
) -> None:  # fmt: skip
    """A block of keys `[keys, H]` of one KV head, and all query heads of its group.

    Many parameters: a kernel has one for each array.

    Args:
        queries, d_out: `[T, group, H]`.
        log_sum, d_sum: `[group, T]`.
    """
    number = pl.program_id(0)
    of_block, key = _span(number, blocks.keys)
    k, v = k_ref[...], v_ref[...]
    first = number * blocks.keys // blocks.queries
    behind = pl.cdiv(ends[(number + 1) * blocks.keys - 1], blocks.queries)
    count = behind - first

    def add(n: Any, so_far: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        head, block = n // count, first + n % count
        span, query = _span(block, blocks.queries)
        q, d_o = queries[span, head, :], d_out[span, head, :]
        scores = _scores(k, q)  # [keys, queries]
        same = segments[of_block][:, None] == segments[span][None, :]
        visible = (query[None, :] >= key[:, None]) & same
        weights = jnp.where(visible, jnp.exp2(scores - log_sum[head, span][None, :]), 0.0)
        d_scores = weights * (float32_dot(v, d_o.T) - d_sum[head, span][None, :])
        of_k = so_far[0] + float32_dot(d_scores.astype(q.dtype), q)
        return of_k, so_far[1] + float32_dot(weights.astype(q.dtype), d_o)

    none = jnp.zeros(k.shape, jnp.float32)
    of_k, of_v = jax.lax.fori_loop(0, group * count, add, (none, none))
    d_k[...] = (of_k * k.shape[1] ** -0.5).astype(d_k.dtype)
    d_v[...] = of_v.astype(d_v.dtype)


class _Specs(NamedTuple):
    """Which block of each array a program of the grid (block, row, head) works on."""

    queries: pl.BlockSpec  # [B, T, N, H], a block of one head
    keys: pl.BlockSpec  # [B, T, K, H], all of its KV head
    row: pl.BlockSpec  # [B, T], all
    floats: pl.BlockSpec  # [B, N, T], a block of one head


def _specs_of_queries(q: jax.Array, k: jax.Array, blocks: _Blocks) -> _Specs:
    """Of programs that have a block of queries, the last block first."""
    _, length, heads, width = q.shape
    group, last = heads // k.shape[2], length // blocks.queries - 1
    return _Specs(
        pl.BlockSpec((None, blocks.queries, None, width), lambda i, b, n: (b, last - i, n, 0)),
        pl.BlockSpec((None, length, None, width), lambda i, b, n: (b, 0, n // group, 0)),
        pl.BlockSpec((None, length), lambda i, b, n: (b, 0)),
        pl.BlockSpec((None, None, blocks.queries), lambda i, b, n: (b, n, last - i)),
    )


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, rows: _Rows, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Output `[B, T, N, H]`, and the log-sum-exp of its scores, base 2, f32 `[B, N, T]`."""
    batch, length, heads, _ = q.shape
    at = _specs_of_queries(q, k, _FORWARD)
    return pl.pallas_call(
        partial(_forward_kernel, blocks=_FORWARD),
        grid=(length // _FORWARD.queries, batch, heads),
        in_specs=[at.queries, at.keys, at.keys, at.row, at.row],
        out_specs=[at.queries, at.floats],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
        ],
        compiler_params=_FORWARD.compiler,
        interpret=interpret,
        name="flash_attention",
    )(q, k, v, rows.segments, rows.starts)


def _backward(
    q: jax.Array, k: jax.Array, v: jax.Array, rows: _Rows, out: jax.Array, log_sum: jax.Array,
    d_out: jax.Array, interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Gradients of q, k and v."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    products = out.astype(jnp.float32) * d_out.astype(jnp.float32)
    d_sum = jnp.moveaxis(products.sum(axis=-1), 1, 2)  # [B, N, T]
    at = _specs_of_queries(q, k, _D_QUERIES)
    d_q = pl.pallas_call(
        partial(_d_queries_kernel, blocks=_D_QUERIES),
        grid=(length // _D_QUERIES.queries, batch, heads),
        in_specs=[at.queries, at.keys, at.keys, at.row, at.row, at.queries, at.floats, at.floats],
        out_specs=at.queries,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=_D_QUERIES.compiler,
        interpret=interpret,
        name="flash_attention_d_queries",
    )(q, k, v, rows.segments, rows.starts, d_out, log_sum, d_sum)
    of_key = pl.BlockSpec((None, _D_KEYS.keys, None, width), lambda j, b, h: (b, j, h, 0))
    of_group = pl.BlockSpec((None, length, group, width), lambda j, b, h: (b, 0, h, 0))
    floats = pl.BlockSpec((None, group, length), lambda j, b, h: (b, h, 0))
    row = pl.BlockSpec((None, length), lambda j, b, h: (b, 0))
    d_k, d_v = pl.pallas_call(
        partial(_d_keys_kernel, blocks=_D_KEYS, group=group),
        grid=(length // _D_KEYS.keys, batch, kv_heads),
        in_specs=[of_group, of_key, of_key, row, row, of_group, floats, floats],
        out_specs=[of_key, of_key],
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)],
        compiler_params=_D_KEYS.compiler,
        interpret=interpret,
        name="flash_attention_d_keys",
    )(q, k, v, rows.segments, rows.ends, d_out, log_sum, d_sum)
    return d_q, d_k, d_v


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    saved_names: tuple[str, str],
    interpret: bool,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rows: _Rows,
) -> jax.Array:
    del saved_names
    return _forward(q, k, v, rows, interpret)[0]


def _attend_forward(
    saved_names: tuple[str, str],
    interpret: bool,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rows: _Rows,
) -> tuple[jax.Array, tuple[Any, ...]]:
    both = _forward(q, k, v, rows, interpret)
    out, log_sum = (checkpoint_name(x, n) for x, n in zip(both, saved_names, strict=True))
    return out, (q, k, v, rows, out, log_sum)


def _attend_backward(
    saved_names: tuple[str, str], interpret: bool, residuals: tuple[Any, ...], d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    del saved_names
    q, k, v, rows, out, log_sum = residuals
    return *_backward(q, k, v, rows, out, log_sum, d_out, interpret), None


_attend.defvjp(_attend_forward, _attend_backward)


def refuses(request: AttentionRequest) -> str | None:
    """Why the kernel cannot run a request, or None."""
    if reason := triton_refusal(request, _WIDEST):
        return reason
    if request.dtype not in ("bfloat16", "float16"):
        return f"takes bfloat16 or float16, not {request.dtype}"
    return None


IMPLEMENTATION = Implementation(partial(flash_attention, saved_names=SAVED_NAMES), refuses, order=1)
