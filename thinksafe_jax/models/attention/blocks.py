"""Attention in plain XLA, block by block with its own derivative: anywhere, for long sequences.

It keeps, of each layer, only its inputs, its output and one float a query; the
backward pass computes the scores again. Blocks of keys that no query of a block may see, because
they are later or belong to other rows, are skipped, forward and backward, so packing many short
rows costs what the rows cost alone.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from thinksafe_jax.models.attention import ATTENTION_BLOCK
from thinksafe_jax.models.attention_request import SAVED_NAMES, AttentionRequest, Implementation

_MASKED = -1e30


def block_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
    saved_names: tuple[str, str] = ("", ""),
    block: int = ATTENTION_BLOCK,
) -> Float[Array, "B T N H"]:
    """Attention within segments (Dao et al., FlashAttention); memory linear in T.

    Shapes as in `causal_attention`.

    Args:
        saved_names: names of the output and of the log-sum-exp for `jax.checkpoint` policies.
        block: queries and keys of a block.
    """
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    pad = -length % block

    def split(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [blocks, B, block, ...]
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, -1, block, *x.shape[2:]), 1, 0)

    scaled: Any = (q * head_dim**-0.5).reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    by_head = split(scaled).transpose(0, 1, 3, 4, 2, 5)  # [blocks, B, K, G, block, H]
    keys, values = (split(x).swapaxes(2, 3) for x in (k, v))  # [blocks, B, K, block, H]
    out: Any = _attend(saved_names, by_head, keys, values, split(segment_ids))
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(batch, length + pad, heads, head_dim)
    return out[:, :length]


class _Piece(NamedTuple):
    """One block of queries with what attention needs to know of it."""

    number: jax.Array  # of the block
    q: jax.Array  # [B, K, G, block, H]
    segments: jax.Array  # [B, block]
    first: jax.Array  # the first block of keys that any of its rows begins in


def _first_blocks(segments: jax.Array) -> jax.Array:
    """For each block of `[blocks, B, block]`: the block where the earliest of its rows begins."""
    blocks, batch, block = segments.shape
    line = segments.swapaxes(0, 1).reshape(batch, blocks * block)
    at = jnp.broadcast_to(jnp.arange(blocks * block, dtype=jnp.int32)[None], line.shape)
    begins = jnp.pad(line[:, 1:] != line[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    start = jax.lax.cummax(jnp.where(begins, at, 0), axis=1)
    return jnp.min(start.reshape(batch, blocks, block), axis=(0, 2)) // block


def _scores(piece: _Piece, k: jax.Array, k_segments: jax.Array, j: jax.Array) -> jax.Array:
    """Masked float32 scores `[B, K, block of keys, G, block of queries]`.

    Keys come first, so that no matmul, forward or backward, has to turn a matrix of scores over:
    on a CPU that took a third of a training step.
    """
    block = k.shape[2]
    scores = jnp.einsum("bksh,bkgth->bksgt", k, piece.q, preferred_element_type=jnp.float32)
    order = jnp.arange(block, dtype=jnp.int32)
    causal = piece.number * block + order[None] >= j * block + order[:, None]
    mask = causal[None] & (piece.segments[:, None] == k_segments[:, :, None])
    return jnp.where(mask[:, None, :, None], scores, jnp.float32(_MASKED))


def _pieces(q: jax.Array, segments: jax.Array) -> _Piece:
    index = jnp.arange(q.shape[0], dtype=jnp.int32)
    return _Piece(index, q, segments, _first_blocks(segments))


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Output, shaped as q `[blocks, B, K, G, block, H]`, and the log-sum-exp of its scores."""
    turned = v.swapaxes(-1, -2)  # here, once: XLA:CPU has no bfloat16 matmul of the other form
    dot = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def attend_block(piece: _Piece) -> tuple[jax.Array, jax.Array]:
        batch, heads, groups, block, head_dim = piece.q.shape
        shape = (batch, heads, groups, block)
        start = (
            jnp.full(shape, _MASKED, jnp.float32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros((batch, heads, head_dim, groups, block), jnp.float32),
        )

        def add(j: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            highest, total, out = carry
            scores = _scores(piece, k[j], segments[j], j)
            new = jnp.maximum(highest, scores.max(axis=2))
            weights, old = jnp.exp(scores - new[:, :, None]), jnp.exp(highest - new)
            part = dot("bkhs,bksgt->bkhgt", turned[j], weights.astype(v.dtype))
            return new, total * old + weights.sum(axis=2), out * old[:, :, None] + part

        highest, total, out = jax.lax.fori_loop(piece.first, piece.number + 1, add, start)
        out = jnp.moveaxis(out / total[:, :, None], 2, -1)
        return out.astype(q.dtype), highest + jnp.log(total)

    return jax.lax.map(attend_block, _pieces(q, segments))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    saved_names: tuple[str, str],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
) -> jax.Array:
    del saved_names
    return _forward(q, k, v, segments)[0]


def _attend_forward(
    saved_names: tuple[str, str],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    both = _forward(q, k, v, segments)
    out, log_sum = (checkpoint_name(x, n) for x, n in zip(both, saved_names, strict=True))
    return out, (q, k, v, segments, out, log_sum)


def _attend_backward(
    saved_names: tuple[str, str], residuals: tuple[jax.Array, ...], d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    del saved_names
    q, k, v, segments, out, log_sum = residuals
    dot = partial(jnp.einsum, preferred_element_type=jnp.float32)
    turned = k.swapaxes(-1, -2)
    d_sum = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)

    def block_gradients(sums: tuple[jax.Array, jax.Array], item: Any) -> tuple[tuple, jax.Array]:
        piece, d_out_block, log_sum_block, d_sum_block = item

        def add(j: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            d_q, d_k, d_v = carry
            weights = jnp.exp(_scores(piece, k[j], segments[j], j) - log_sum_block[:, :, None])
            d_weights = dot("bksh,bkgth->bksgt", v[j], d_out_block)
            d_scores = (weights * (d_weights - d_sum_block[:, :, None])).astype(q.dtype)
            d_q = d_q + dot("bkhs,bksgt->bkhgt", turned[j], d_scores)
            d_k = d_k.at[j].add(dot("bksgt,bkgth->bksh", d_scores, piece.q))
            d_v = d_v.at[j].add(dot("bksgt,bkgth->bksh", weights.astype(q.dtype), d_out_block))
            return d_q, d_k, d_v

        batch, heads, groups, block, head_dim = piece.q.shape
        start = (jnp.zeros((batch, heads, head_dim, groups, block), jnp.float32), *sums)
        d_q, d_k, d_v = jax.lax.fori_loop(piece.first, piece.number + 1, add, start)
        return (d_k, d_v), jnp.moveaxis(d_q, 2, -1).astype(q.dtype)

    zeros = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    items: Any = (_pieces(q, segments), d_out, log_sum, d_sum)
    (d_k, d_v), d_q = jax.lax.scan(block_gradients, zeros, items)
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def refuses(request: AttentionRequest) -> str | None:
    """Why blocks would be of no use, or None."""
    short = request.length <= ATTENTION_BLOCK
    return f"length {request.length} is one block" if short else None


IMPLEMENTATION = Implementation(partial(block_attention, saved_names=SAVED_NAMES), refuses, order=3)
