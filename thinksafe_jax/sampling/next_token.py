"""Drawing the next token: temperature, top-k, top-p, min-p, greedy; each row by its own options.

Semantics are vLLM's: temperature first, then top-k, then top-p over the renormalised rest. One
uniform number a row picks its token; there is no sort and no random draw over the vocabulary. A
row's token depends on its own logits, options and key alone, and it is drawn in one of three ways:

    filtered     the 64 most likely tokens hold all that may be drawn: nearly every filtered row
    unfiltered   nothing is left out: the sums of blocks of the vocabulary, then one block
    wide         the filters may keep more than 64 tokens: what they keep is found first, exactly

The vocabulary may be split over a mesh axis (`axis`, inside `jax.shard_map`). What crosses the
axis is 64 candidates and a few numbers a row, never logits.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

CANDIDATES = 64
# Of what a seed means. 2: unfiltered and wide rows sum their masses block by block, where 1 summed
# them over the vocabulary; where rounding puts a uniform number on the other side of an end, the
# token is another one. In 1, top-p after a top-k above 64 closed too early. All other rows are
# drawn as in 1.
DRAW_VERSION = 2
_WIDE_ROWS = 2  # rows that are drawn wide at a time: seldom is there more than one in a batch


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
    scaled = logits / temperature[:, None]
    uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)
    free = _unfiltered(options, split.vocabulary)

    def unfiltered() -> jax.Array:
        top = split.max(scaled)[:, None, None]
        return _draw_by_mass(scaled, lambda x: jnp.exp(x - top), uniform, split)

    def some_filtered() -> jax.Array:
        tokens, wide = _draw_filtered(logits, scaled, uniform, options, split)
        tokens = _draw_wide(scaled, uniform, options, wide & ~free, tokens, split)
        return jax.lax.cond(
            free.any(), lambda: jnp.where(free, unfiltered(), tokens), lambda: tokens
        )

    tokens = jax.lax.cond(free.all(), unfiltered, some_filtered)
    return tokens, split.pick(logits, tokens) - split.logsumexp(logits)


def _unfiltered(options: Options, vocabulary: int) -> jax.Array:
    """Rows `[B]` that may draw any token, and more than the candidates hold."""
    no_filter = (options.top_k == 0) & (options.top_p >= 1) & (options.min_p == 0)
    return no_filter & (options.temperature > 0) & (vocabulary > CANDIDATES)


def _draw_filtered(
    logits: jax.Array, scaled: jax.Array, uniform: jax.Array, options: Options, split: "_Split"
) -> tuple[jax.Array, jax.Array]:
    """Tokens `[B]` out of the candidates, and the rows whose candidates do not hold all."""
    temperature = jnp.where(options.temperature > 0, options.temperature, jnp.float32(1))
    top_values, top_ids = split.top_candidates(logits)
    chosen, complete = _draw_candidates(
        top_values / temperature[:, None],
        split.logsumexp(scaled),
        uniform,
        options,
        split.vocabulary,
    )
    greedy = options.temperature == 0
    chosen = jnp.where(greedy, 0, chosen)
    tokens = jnp.take_along_axis(top_ids, chosen[:, None], axis=1)[:, 0]
    return tokens, ~(complete | greedy)


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
    # complete when something closed the set before the candidates ran out; of a top-k that holds
    # more than they do the mass is not known here, and so not where top-p closes it
    unknown = (options.top_k > count) & (options.top_p < 1)
    closed = ~(nucleus & above_min & allowed)[:, -1] & ~unknown | (options.top_k == count)
    return jnp.minimum(chosen, last), closed | (count == vocabulary)


def _mass_limit(options: Options) -> jax.Array:
    """top_p, where 1 means everything: rounding must not cut the tail."""
    return jnp.where(options.top_p < 1, options.top_p, jnp.float32(jnp.inf))


def _draw_by_mass(
    scores: jax.Array,
    mass: Callable[[jax.Array], jax.Array],
    uniform: jax.Array,
    split: _Split,
) -> jax.Array:
    """Inverts the cumulative mass, in the order of the vocabulary, in two sweeps.

        blocks   | 0.1 | 0.4 | 0.3 | 0.2 |    1. the mass of every block
        place         ^ 0.37                  2. the tokens of the block that holds the place

    A cumulative sum over the vocabulary would be written out and read again; a few hundred sums of
    blocks stay in the cache.

    Args:
        scores: `[B, V]`.
        mass: of scores in blocks `[B, blocks, size]`; 0 for -inf.
        uniform: `[B]` in [0, 1).

    Returns:
        ids i32 `[B]`, each of a token with mass.
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


def _draw_wide(
    scaled: jax.Array,
    uniform: jax.Array,
    options: Options,
    wide: jax.Array,
    tokens: jax.Array,
    split: _Split,
) -> jax.Array:
    """`tokens` i32 `[B]` with the rows in `wide` drawn over the vocabulary, a few at a time.

    What a batch pays for its wide rows is what they cost: a step that has none pays nothing.
    """
    batch = len(wide)
    size = min(_WIDE_ROWS, batch)
    # the other rows of a group get no filter, or the search would go on for them
    options = options._replace(
        top_k=jnp.where(wide, options.top_k, 0), top_p=jnp.where(wide, options.top_p, 1.0)
    )
    order = jnp.argsort(~wide, stable=True)  # the wide rows first
    order = jnp.pad(order, (0, -batch % size), mode="edge").reshape(-1, size)

    def some(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        number, tokens = state
        rows = order[number]
        chosen = jax.tree.map(lambda x: x[rows], options)
        drawn = _draw_vocabulary(scaled[rows], uniform[rows], chosen, split)
        return number + 1, tokens.at[rows].set(jnp.where(wide[rows], drawn, tokens[rows]))

    batches = -(-wide.sum(dtype=jnp.int32) // size)
    return jax.lax.while_loop(lambda s: s[0] < batches, some, (jnp.int32(0), tokens))[1]


def _draw_vocabulary(
    scaled: jax.Array, uniform: jax.Array, options: Options, split: _Split
) -> jax.Array:
    """Exact draw of rows `[R, V]`, whatever their filters keep."""
    top = split.max(scaled)

    def top_k() -> jax.Array:
        count = options.top_k.astype(jnp.float32)
        limit = jnp.where(options.top_k > 0, count, jnp.float32(jnp.inf))
        return _kept(scaled, jnp.ones_like, limit, jnp.full_like(top, -jnp.inf), split)

    def top_p() -> jax.Array:
        # what lies below weighs less than 1 - p, all of it together
        tail = jnp.log(total * (1 - options.top_p) / split.vocabulary)
        return _kept(cut, mass, _mass_limit(options), top + tail - 1, split)

    def mass(scores: jax.Array) -> jax.Array:
        return jnp.exp(scores - top[:, None]) / total[:, None]

    cut = jax.lax.cond((options.top_k > 0).any(), top_k, lambda: scaled)
    total = split.sum(jnp.exp(cut - top[:, None]))
    cut = jax.lax.cond((options.top_p < 1).any(), top_p, lambda: cut)
    masses = mass(cut)
    kept = masses >= options.min_p[:, None] * split.max(masses)[:, None]
    masses = jnp.where(kept, masses, jnp.float32(0))
    return _draw_by_mass(masses, lambda x: jnp.maximum(x, jnp.float32(0)), uniform, split)


def _kept(
    scores: jax.Array,
    weight: Callable[[jax.Array], jax.Array],
    limit: jax.Array,
    floor: jax.Array,
    split: _Split,
) -> jax.Array:
    """The scores `[R, V]` before which less than `limit` of the weight lies; the others -inf.

    Tokens come by falling score, equal ones by id. With weight 1 this is top-k, with the
    probability it is top-p; a limit of infinity keeps all.

    Args:
        weight: of scores `[R, any]`; not smaller where the score is larger.
        limit: float32 `[R]`.
        floor: float32 `[R]`, a score below which nothing is kept.
    """
    order, weights = _sortable(scores), weight(scores)

    def beyond(threshold: jax.Array) -> jax.Array:
        """The weight above a threshold i32 `[R]`."""
        return split.sum(jnp.where(order > threshold[:, None], weights, jnp.float32(0)))

    bounds = _narrowed(beyond, weight, limit, _start(order, weights, limit, floor, split))
    doubt = jnp.where(order <= bounds.high[:, None], scores, -jnp.inf)
    candidates, _ = split.top_candidates(doubt)
    mass = weight(candidates)
    before = bounds.beyond_high[:, None] + jnp.cumsum(mass, axis=-1) - mass
    last = jnp.maximum((before < limit[:, None]).sum(axis=-1, dtype=jnp.int32) - 1, 0)
    lowest = jnp.take_along_axis(candidates, last[:, None], axis=1)  # [R, 1], kept itself
    ties = scores == lowest
    missing = (limit - beyond(_sortable(lowest)[:, 0])) / jnp.maximum(weight(lowest)[:, 0], 1e-38)
    room = jnp.ceil(jnp.clip(missing, 1, split.vocabulary)).astype(jnp.int32)
    count = split.sum(ties.astype(jnp.int32))
    first = jax.lax.cond(
        (room < count).any(),
        lambda: ties & (split.cumsum(ties.astype(jnp.int32)) <= room[:, None]),
        lambda: ties,
    )
    kept = (scores > lowest) | first | jnp.isinf(limit)[:, None]
    return jnp.where(kept, scores, -jnp.inf)


class _Bounds(NamedTuple):
    """Where the last kept score lies, by row `[R]`: scores as integers, and weights.

    order   | all kept | high ... in doubt ... low | all left out |
    """

    low: jax.Array
    high: jax.Array
    from_low: jax.Array  # weight of low and all above it, at most
    beyond_high: jax.Array  # weight above high, which is below the limit


def _start(
    order: jax.Array, weights: jax.Array, limit: jax.Array, floor: jax.Array, split: _Split
) -> _Bounds:
    high = split.max(order)
    finite = jnp.where(order > _sortable(jnp.float32(-jnp.inf)), order, high[:, None])
    low = jnp.maximum(-split.max(-finite), _sortable(floor))
    low = jnp.where(jnp.isfinite(limit), jnp.minimum(low, high), high)  # without limit: no doubt
    return _Bounds(low, high, split.sum(weights), jnp.zeros_like(limit))


def _narrowed(
    beyond: Callable[[jax.Array], jax.Array],
    weight: Callable[[jax.Array], jax.Array],
    limit: jax.Array,
    bounds: _Bounds,
) -> _Bounds:
    """Halves the doubt until at most 64 tokens can lie in it: a third of a search for every bit.

    Each token in doubt weighs at least as much as `low`, which bounds their number from above.
    """

    def doubtful(b: _Bounds) -> jax.Array:
        least = weight(_unsortable(b.low)[:, None])[:, 0]
        return (b.low < b.high) & (b.from_low - b.beyond_high > CANDIDATES * least)

    def halve(b: _Bounds) -> _Bounds:
        half = _sortable(0.5 * _unsortable(b.low) + 0.5 * _unsortable(b.high))
        middle = jnp.clip(half, b.low, b.high - 1)
        mass = beyond(middle)
        down, up = doubtful(b) & (mass < limit), doubtful(b) & (mass >= limit)
        return _Bounds(
            jnp.where(up, middle + 1, b.low),
            jnp.where(down, middle, b.high),
            jnp.where(up, mass, b.from_low),
            jnp.where(down, mass, b.beyond_high),
        )

    return jax.lax.while_loop(lambda b: doubtful(b).any(), halve, bounds)


def _sortable(x: jax.Array) -> jax.Array:
    """int32 with the order of the float32 values (-0 just below +0)."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _unsortable(order: jax.Array) -> jax.Array:
    """The float32 values of `_sortable`."""
    bits = jnp.where(order < 0, order ^ jnp.int32(0x7FFFFFFF), order)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
