"""Reductions and draws over the vocabulary, on one device or split over a mesh axis.

What crosses the axis is 64 candidates and a few numbers a row, never logits.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

CANDIDATES = 64


def top_candidates(
    logits: Float32[Array, "B V"],
) -> tuple[Float32[Array, "B C"], Int32[Array, "B C"]]:
    """The 64 largest logits and their ids, equal to `lax.top_k` ties included.

    Two stages: the 64 blocks with the largest maxima hold the 64 largest values. Their ids are
    sorted first, so that equal values come in the order of the vocabulary.
    """
    batch, vocabulary = logits.shape
    size = _block_size(vocabulary)
    if vocabulary <= CANDIDATES * size:
        values, ids = jax.lax.top_k(logits, min(CANDIDATES, vocabulary))
        return values, ids
    padded = jnp.pad(logits, ((0, 0), (0, -vocabulary % size)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch, -1, size)
    _, best = jax.lax.top_k(blocks.max(axis=-1), CANDIDATES)
    best = jnp.sort(best, axis=-1)
    gathered = jnp.take_along_axis(blocks, best[:, :, None], axis=1).reshape(batch, -1)
    offsets = jnp.arange(size, dtype=best.dtype)[None, None]
    ids = (best[:, :, None] * size + offsets).reshape(batch, -1)
    values, index = jax.lax.top_k(gathered, CANDIDATES)
    return values, jnp.take_along_axis(ids, index, axis=1)


def _block_size(vocabulary: int) -> int:
    """Power of two for which the two stages look at about as many values each."""
    return 1 << max(3, round(math.log2(vocabulary / CANDIDATES) / 2))


class VocabSplit:
    """Reductions over the vocabulary, whether it lies on one device or over a mesh axis."""

    def __init__(self, axis: tuple[str, ...] | None, local: int):
        self.axis, self.local = axis, local
        shards = 1 if axis is None else jax.lax.axis_size(axis)
        self.vocabulary = local * shards
        self.first = jnp.int32(0) if axis is None else jax.lax.axis_index(axis) * local

    def top_candidates(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, ids = top_candidates(logits)
        if self.axis is None:
            return values, ids
        values = jax.lax.all_gather(values, self.axis, axis=1, tiled=True)
        ids = jax.lax.all_gather(ids + self.first, self.axis, axis=1, tiled=True)
        # shards come in order, so top_k's own tie rule is the vocabulary's order
        values, index = jax.lax.top_k(values, min(CANDIDATES, values.shape[1]))
        return values, jnp.take_along_axis(ids, index, axis=1)

    def sum(self, x: jax.Array) -> jax.Array:
        """Sum over the vocabulary of `[B, V]`."""
        total = x.sum(axis=-1, dtype=x.dtype)
        return total if self.axis is None else jax.lax.psum(total, self.axis)

    def max(self, x: jax.Array) -> jax.Array:
        top = x.max(axis=-1)
        return top if self.axis is None else jax.lax.pmax(top, self.axis)

    def before(self, total: jax.Array) -> jax.Array:
        """What the shards before this one hold of a per-shard total `[B]`."""
        if self.axis is None:
            return jnp.zeros_like(total)
        totals = jax.lax.all_gather(total, self.axis)
        earlier = jnp.arange(totals.shape[0]) < jax.lax.axis_index(self.axis)
        return jnp.where(earlier[:, None], totals, jnp.zeros_like(totals)).sum(
            axis=0, dtype=total.dtype
        )

    def aim(self, local: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Whether this shard holds the place `uniform` of all mass, and the place from its start.

        Args:
            local: this shard's mass `[B]`.
            uniform: `[B]` in [0, 1).
        """
        if self.axis is None:
            return jnp.ones(local.shape, bool), uniform * local
        totals = jax.lax.all_gather(local, self.axis)  # [shards, B]
        ends = jnp.cumsum(totals, axis=0)
        place = uniform * ends[-1]
        holder = _first_beyond(ends.T, totals.T, place)
        start = jnp.take_along_axis(ends - totals, holder[None], axis=0)[0]
        return holder == jax.lax.axis_index(self.axis), place - start

    def held(self, mine: jax.Array, ids: jax.Array) -> jax.Array:
        """The ids `[B]` of the shard that holds each row, as ids of the whole vocabulary."""
        if self.axis is None:
            return ids
        return jax.lax.psum(jnp.where(mine, ids + self.first, 0), self.axis)

    def cumsum(self, x: jax.Array) -> jax.Array:
        return jnp.cumsum(x, axis=-1) + self.before(x.sum(axis=-1, dtype=x.dtype))[:, None]

    def logsumexp(self, x: jax.Array) -> jax.Array:
        top = self.max(x)
        return top + jnp.log(self.sum(jnp.exp(x - top[:, None])))

    def pick(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """`x[b, tokens[b]]`."""
        at = tokens - self.first
        inside = (at >= 0) & (at < self.local)
        value = jnp.take_along_axis(x, jnp.clip(at, 0, self.local - 1)[:, None], axis=1)[:, 0]
        value = jnp.where(inside, value, jnp.float32(0))
        return value if self.axis is None else jax.lax.psum(value, self.axis)


class Draw(NamedTuple):
    """Tokens, and what their log-probabilities in the distribution drawn from are counted from.

    Attributes:
        tokens: i32 `[B]`.
        log_mass: f32 `[B]`, log of the sum of exp(logit / temperature) over the tokens that the
            filters keep; None where nobody asks.
    """

    tokens: jax.Array
    log_mass: jax.Array | None = None

    def with_rows(self, rows: jax.Array, other: "Draw") -> "Draw":
        """This draw, with the other one's tokens in `rows` bool `[B]`."""
        return jax.tree.map(lambda mine, its: jnp.where(rows, its, mine), self, other)


def draw_by_mass(
    scores: Float32[Array, "B V"],
    mass: Callable[[jax.Array], jax.Array],
    uniform: Float32[Array, " B"],
    split: VocabSplit,
) -> Int32[Array, " B"]:
    """Inverts the cumulative mass, in the order of the vocabulary, in two sweeps.

        blocks   | 0.1 | 0.4 | 0.3 | 0.2 |    1. the mass of every block
        place         ^ 0.37                  2. the tokens of the block that holds the place

    A cumulative sum over the vocabulary would be written out and read again; a few hundred sums of
    blocks stay in the cache.

    Args:
        mass: of scores in blocks `[B, blocks, size]`; 0 for -inf.
        uniform: in [0, 1).

    Returns:
        ids, each of a token with mass.
    """
    batch, vocabulary = scores.shape
    size = 1 << max(3, round(math.log2(vocabulary) / 2))
    padded = jnp.pad(scores, ((0, 0), (0, -vocabulary % size)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch, -1, size)
    sums = mass(blocks).sum(axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    mine, place = split.aim(ends[:, -1], uniform)
    block = _first_beyond(ends, sums, place)
    tokens = mass(jnp.take_along_axis(blocks, block[:, None, None], axis=1))[:, 0]
    start = jnp.take_along_axis(ends - sums, block[:, None], axis=1)[:, 0]
    token = _first_beyond(jnp.cumsum(tokens, axis=-1), tokens, place - start)
    return split.held(mine, block * size + token)


def _first_beyond(ends: jax.Array, masses: jax.Array, place: jax.Array) -> jax.Array:
    """The first index whose end `[B, N]` lies beyond the place `[B]`; one with mass, always."""
    index = (ends <= place[:, None]).sum(axis=-1, dtype=jnp.int32)
    last = masses.shape[1] - 1 - jnp.argmax((masses > 0)[:, ::-1], axis=-1).astype(jnp.int32)
    return jnp.minimum(index, last)
