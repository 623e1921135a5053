"""The exact draw of rows whose filters keep more tokens than the candidates hold."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from thinksafe_jax.sampling.sampling_options import Options, mass_limit
from thinksafe_jax.sampling.vocab_split import CANDIDATES, Draw, VocabSplit, draw_by_mass

_WIDE_ROWS = 2  # rows that are drawn wide at a time: seldom is there more than one in a batch


def draw_wide(
    scaled: Float32[Array, "B V"],
    uniform: Float32[Array, " B"],
    options: Options,
    wide: Bool[Array, " B"],
    draw: Draw,
    split: VocabSplit,
) -> Draw:
    """`draw` with the rows in `wide` drawn over the vocabulary, a few at a time.

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

    weigh = draw.log_mass is not None

    def some(state: tuple[jax.Array, Draw]) -> tuple[jax.Array, Draw]:
        number, draw = state
        rows = order[number]
        chosen, before = (jax.tree.map(lambda x: x[rows], tree) for tree in (options, draw))
        drawn = _draw_vocabulary(scaled[rows], uniform[rows], chosen, split, weigh=weigh)
        new = before.with_rows(wide[rows], drawn)
        return number + 1, jax.tree.map(lambda x, value: x.at[rows].set(value), draw, new)

    batches = -(-wide.sum(dtype=jnp.int32) // size)
    return jax.lax.while_loop(lambda s: s[0] < batches, some, (jnp.int32(0), draw))[1]


def _draw_vocabulary(
    scaled: jax.Array, uniform: jax.Array, options: Options, split: VocabSplit, *, weigh: bool
) -> Draw:
    """Exact draw of rows `[R, V]`, whatever their filters keep; `weigh` what that is."""
    top = split.max(scaled)

    def top_k() -> jax.Array:
        count = options.top_k.astype(jnp.float32)
        limit = jnp.where(options.top_k > 0, count, jnp.float32(jnp.inf))
        return _kept(scaled, jnp.ones_like, limit, jnp.full_like(top, -jnp.inf), split)

    def top_p() -> jax.Array:
        # what lies below weighs less than 1 - p, all of it together
        tail = jnp.log(total * (1 - options.top_p) / split.vocabulary)
        return _kept(cut, mass, mass_limit(options), top + tail - 1, split)

    def mass(scores: jax.Array) -> jax.Array:
        return jnp.exp(scores - top[:, None]) / total[:, None]

    cut = jax.lax.cond((options.top_k > 0).any(), top_k, lambda: scaled)
    total = split.sum(jnp.exp(cut - top[:, None]))
    cut = jax.lax.cond((options.top_p < 1).any(), top_p, lambda: cut)
    masses = mass(cut)
    kept = masses >= options.min_p[:, None] * split.max(masses)[:, None]
    masses = jnp.where(kept, masses, jnp.float32(0))
    tokens = draw_by_mass(masses, lambda x: jnp.maximum(x, jnp.float32(0)), uniform, split)
    return Draw(tokens, top + jnp.log(total * split.sum(masses)) if weigh else None)


def _kept(
    scores: jax.Array,
    weight: Callable[[jax.Array], jax.Array],
    limit: jax.Array,
    floor: jax.Array,
    split: VocabSplit,
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
    order: jax.Array, weights: jax.Array, limit: jax.Array, floor: jax.Array, split: VocabSplit
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
