"""Drawing the next token: temperature, top-k, top-p, min-p, greedy; each row by its own options.

Semantics are vLLM's: temperature first, then top-k, then top-p over the renormalised rest. No
sort and no random draw over the vocabulary: the 64 most likely tokens nearly always hold all that
may be drawn, one uniform number picks among them, and a row for which they do not is drawn exactly
over the whole vocabulary. A row's token depends on its own logits, options and key alone.

The vocabulary may be split over a mesh axis (`axis`, inside `jax.shard_map`). What crosses the
axis is 64 candidates and a few numbers a row, never logits.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

CANDIDATES = 64


class Options(NamedTuple):
    """Per-row sampling options; float32 or int32 `[B]`."""

    temperature: jax.Array  # 0 is greedy
    top_k: jax.Array  # 0 is off
    top_p: jax.Array
    min_p: jax.Array


def sample(
    logits: jax.Array, keys: jax.Array, options: Options, axis: tuple[str, ...] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Draws one token a row.

    Args:
        logits: float32 `[B, V]`, unscaled; this shard's part of the vocabulary under `axis`.
        keys: random keys `[B]`, one for each row and position.
        options: per-row options.
        axis: mesh axes over which the vocabulary is split, in order.

    Returns:
        tokens i32 `[B]` and their log-probabilities float32 `[B]` at temperature 1, unfiltered.
    """
    split = _Split(axis, logits.shape[1])
    temperature = jnp.where(options.temperature > 0, options.temperature, jnp.float32(1))
    top_values, top_ids = split.top_candidates(logits)
    scaled = logits / temperature[:, None]
    uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)
    log_total = split.logsumexp(scaled)

    chosen, complete = _draw_candidates(
        top_values / temperature[:, None], log_total, uniform, options, split.vocabulary
    )
    greedy = options.temperature == 0
    chosen = jnp.where(greedy, 0, chosen)
    tokens = jnp.take_along_axis(top_ids, chosen[:, None], axis=1)[:, 0]
    wide = ~(complete | greedy)
    tokens = jax.lax.cond(
        wide.any(),
        lambda: jnp.where(wide, _draw_vocabulary(scaled, uniform, options, split), tokens),
        lambda: tokens,
    )
    return tokens, split.pick(logits, tokens) - split.logsumexp(logits)


def top_candidates(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The 64 largest logits and their ids, both `[B, 64]`, equal to `lax.top_k` ties included.

    Two stages: the 64 blocks with the largest maxima hold the 64 largest values. Their ids are
    sorted first, so that equal values come in the order of the vocabulary.
    """
    batch, vocabulary = logits.shape
    size = _block_size(vocabulary)
    if vocabulary <= CANDIDATES * size:
        return jax.lax.top_k(logits, min(CANDIDATES, vocabulary))
    padded = jnp.pad(logits, ((0, 0), (0, -vocabulary % size)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch, -1, size)
    _, best = jax.lax.top_k(blocks.max(axis=-1), CANDIDATES)
    best = jnp.sort(best, axis=-1)
    gathered = jnp.take_along_axis(blocks, best[:, :, None], axis=1).reshape(batch, -1)
    offsets = jnp.arange(size, dtype=best.dtype)[None, None]
    ids = (best[:, :, None] * size + offsets).reshape(batch, -1)
    values, where = jax.lax.top_k(gathered, CANDIDATES)
    return values, jnp.take_along_axis(ids, where, axis=1)


def _block_size(vocabulary: int) -> int:
    """Power of two for which the two stages look at about as many values each."""
    return 1 << max(3, round(math.log2(vocabulary / CANDIDATES) / 2))


class _Split:
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
        values, where = jax.lax.top_k(values, min(CANDIDATES, values.shape[1]))
        return values, jnp.take_along_axis(ids, where, axis=1)

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


def _draw_candidates(
    values: jax.Array,
    log_total: jax.Array,
    uniform: jax.Array,
    options: Options,
    vocabulary: int,
) -> tuple[jax.Array, jax.Array]:
    """Index among the candidates, and whether they hold every token that may be drawn.

    values: scaled logits `[B, C]`, descending.
    """
    count = values.shape[1]
    rank = jnp.arange(count, dtype=jnp.int32)[None]
    limited = (options.top_k > 0)[:, None]
    allowed = ~limited | (rank < options.top_k[:, None])
    in_top_k = jnp.where(allowed, values, -jnp.inf)
    # top-p counts mass over what top-k left; without top-k, over the whole vocabulary
    total = jnp.where(limited[:, 0], jax.nn.logsumexp(in_top_k, axis=-1), log_total)
    mass = jnp.exp(in_top_k - total[:, None])
    before = jnp.cumsum(mass, axis=-1) - mass
    nucleus = before < _mass_limit(options)[:, None]
    above_min = mass >= options.min_p[:, None] * mass[:, :1]
    kept = jnp.where(nucleus & above_min & allowed, mass, jnp.float32(0))
    kept = kept.at[:, 0].set(mass[:, 0])  # the first token is always kept
    cdf = jnp.cumsum(kept, axis=-1)
    chosen = (cdf <= uniform[:, None] * cdf[:, -1:]).sum(axis=-1, dtype=jnp.int32)
    last = count - 1 - jnp.argmax((kept > 0)[:, ::-1], axis=-1).astype(jnp.int32)
    # complete when something closed the set before the candidates ran out
    closed = ~(nucleus & above_min & allowed)[:, -1] | (options.top_k == count)
    return jnp.minimum(chosen, last), closed | (count == vocabulary)


def _mass_limit(options: Options) -> jax.Array:
    """top_p, where 1 means everything: rounding must not cut the tail."""
    return jnp.where(options.top_p < 1, options.top_p, jnp.float32(jnp.inf))


def _draw_vocabulary(
    scaled: jax.Array, uniform: jax.Array, options: Options, split: _Split
) -> jax.Array:
    """Exact draw over the vocabulary `[B, V]`, by bisection on the order of float32 numbers."""
    rows = scaled.shape[0]
    order = _sortable(scaled)
    full_k = jnp.where(options.top_k > 0, options.top_k, jnp.int32(split.vocabulary))

    def count_above(threshold: jax.Array) -> jax.Array:
        return split.sum((order > threshold[:, None]).astype(jnp.int32))

    k_threshold = _bisect(lambda t: count_above(t) < full_k, rows)
    in_k = _closed_at(order, k_threshold, full_k - count_above(k_threshold), split)
    mass = jnp.where(in_k, jnp.exp(scaled - split.max(scaled)[:, None]), jnp.float32(0))
    mass = mass / split.sum(mass)[:, None]
    limit = _mass_limit(options)

    def mass_above(threshold: jax.Array) -> jax.Array:
        return split.sum(jnp.where(order > threshold[:, None], mass, jnp.float32(0)))

    p_threshold = _bisect(lambda t: mass_above(t) < limit, rows)
    at = split.max(jnp.where(order == p_threshold[:, None], mass, jnp.float32(0)))
    missing = (limit - mass_above(p_threshold)) / jnp.maximum(at, jnp.float32(1e-38))
    room = jnp.ceil(jnp.clip(missing, 1, split.vocabulary)).astype(jnp.int32)
    keep = _closed_at(order, p_threshold, room, split) & in_k
    keep &= mass >= options.min_p[:, None] * split.max(mass)[:, None]
    kept = jnp.where(keep, mass, jnp.float32(0))
    cdf, total = split.cumsum(kept), split.sum(kept)
    chosen = split.sum((cdf <= (uniform * total)[:, None]).astype(jnp.int32))
    ids = split.first + jnp.arange(split.local, dtype=jnp.int32)
    last = split.max(jnp.where(keep, ids[None], -1))
    return jnp.minimum(chosen, last)


def _closed_at(order: jax.Array, threshold: jax.Array, room: jax.Array, split: _Split) -> jax.Array:
    """Entries above the threshold, and the first `room` of those that equal it."""
    tie = order == threshold[:, None]
    rank = split.cumsum(tie.astype(jnp.int32))
    return (order > threshold[:, None]) | (tie & (rank <= room[:, None]))


def _sortable(x: jax.Array) -> jax.Array:
    """int32 with the order of the float32 values (-0 just below +0)."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _bisect(below: Callable[[jax.Array], jax.Array], rows: int) -> jax.Array:
    """Smallest int32 `t` `[rows]` for which `below(t)` holds; `below` must be monotone in t."""

    def step(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low >> 1) + (high >> 1) + (low & high & 1)  # no overflow
        holds = below(middle)
        return jnp.where(holds, low, middle + 1), jnp.where(holds, middle, high)

    bounds = jnp.full(rows, -(2**31), jnp.int32), jnp.full(rows, 2**31 - 1, jnp.int32)
    return jax.lax.fori_loop(0, 32, step, bounds)[0]
