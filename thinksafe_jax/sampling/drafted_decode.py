"""Decode with drafts: a pass runs over a slot's newest token and the tokens that may follow it.

    newest token and draft      t   a   b   c     one pass over K + 1 positions
    drawn at each position      a   b   x   y     each with the position's own uniform number
    text                        a   b   x         up to the first draw that differs from the draft

Each draw is what plain decoding draws there, given the same tokens before it, so the text is the
same token for token. Keys and values of positions behind the last draw are not read: the next pass
begins there and writes them anew.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from thinksafe_jax.models import Params, UnstackedAdapter
from thinksafe_jax.sampling.drafts import (
    DraftShape,
    agreeing,
    passes_with_drafts,
    propose,
    remember,
)
from thinksafe_jax.sampling.kv_cache import KvCache
from thinksafe_jax.sampling.layout import Layout
from thinksafe_jax.sampling.programs import DecodeSpec, Slots, decode_hidden, draw

_Carry = tuple[KvCache, Slots, jax.Array]


@partial(jax.jit, static_argnames=("spec", "shape"), donate_argnames=("cache", "slots", "history"))
def decode_drafted(
    params: Params,
    cache: KvCache,
    slots: Slots,
    history: Int32[Array, "B C"],
    table: Int32[Array, "W N"],
    slot_ids: Int32[Array, " W"] | None = None,
    adapter: UnstackedAdapter | None = None,
    *,
    spec: DecodeSpec,
    shape: DraftShape,
) -> tuple[
    KvCache,
    Slots,
    Int32[Array, "B C"],
    tuple[Int32[Array, "T W"], Float32[Array, "T W ..."], Int32[Array, " W"]],
]:
    """`programs.decode` with drafts: a window makes up to S passes times K + 1 tokens.

    Many parameters: those of `decode`, and the texts that drafts are found in.

    Args:
        history: see `drafts`; the prompt of each slot and all its tokens are in it.

    Returns:
        cache, slots and history; and of the window the tokens (-1 where a position gave none),
        their log-probabilities, and the passes in which each slot was at work.
    """

    def one_pass(carry: _Carry, _: None) -> tuple[_Carry, tuple[jax.Array, jax.Array]]:
        return _one_pass(params, carry, table, adapter, spec=spec, shape=shape)

    rows = slots, history
    if slot_ids is not None:
        rows = jax.tree.map(lambda x: x[slot_ids], rows)
    carry, made = jax.lax.scan(one_pass, (cache, rows[0], rows[1]), length=spec.steps)
    cache, rows = carry[0], carry[1:]
    if slot_ids is not None:
        rows = jax.tree.map(lambda x, new: x.at[slot_ids].set(new), (slots, history), rows)
    passes = (made[0][:, :, 0] >= 0).sum(axis=0, dtype=jnp.int32)
    # [S, W, Q] to [S Q, W]: in the order of the text
    ordered = (jnp.swapaxes(x, 1, 2) for x in made)
    tokens, logprobs = (x.reshape(-1, *x.shape[2:]) for x in ordered)
    return cache, rows[0], rows[1], (tokens, logprobs, passes)


def _one_pass(
    params: Params,
    carry: _Carry,
    table: Int32[Array, "W N"],
    adapter: UnstackedAdapter | None,
    *,
    spec: DecodeSpec,
    shape: DraftShape,
) -> tuple[_Carry, tuple[jax.Array, jax.Array]]:
    """Cache, slots and history one pass later, with its tokens `[W, Q]` and their logprobs."""
    lookup = spec.layout.shard_map(
        lambda history, end: propose(history, end, shape.count),
        (spec.layout.rows, spec.layout.rows),
        spec.layout.rows,
    )
    write = spec.layout.shard_map(remember, (spec.layout.rows,) * 4, spec.layout.rows)
    cache, slots, history = carry
    first = shape.references + slots.position + 1  # column of the token that is drawn next
    draft = lookup(history, first)
    # no token has the number of "no draft"; it is never drawn, so any token may stand for it
    tokens = jnp.concatenate([slots.token[:, None], jnp.maximum(draft, 0)], axis=1)
    hidden, cache = decode_hidden(params, cache, slots, tokens, table, adapter, spec=spec)
    rows = hidden.reshape(-1, hidden.shape[-1]), _positions_apart(slots, shape.positions)
    made = draw(params, *rows, spec)
    drawn, logprobs = (x.reshape(*tokens.shape, *x.shape[1:]) for x in made)
    kept = _kept(slots, drawn, draft, spec.eos_ids)
    history = write(history, drawn, first, kept.sum(axis=1, dtype=jnp.int32))
    new = _advance(slots, drawn, kept, spec.eos_ids)
    return (cache, new, history), (jnp.where(kept, drawn, -1), logprobs)


def _positions_apart(slots: Slots, positions: int) -> Slots:
    """A row for each position of each slot `[B Q]`: what a draw there depends on."""
    rows = jax.tree.map(lambda x: jnp.repeat(x, positions, axis=0), slots)
    step = jnp.tile(jnp.arange(positions, dtype=jnp.int32), len(slots.token))
    return rows._replace(position=rows.position + step)


def _kept(
    slots: Slots, drawn: Int32[Array, "B Q"], draft: Int32[Array, "B K"], eos_ids: tuple[int, ...]
) -> Bool[Array, "B Q"]:
    """The draws that are text: their drafts were right, nothing has ended, some are allowed."""
    step = jnp.arange(drawn.shape[1], dtype=jnp.int32)[None]
    right = step <= agreeing(drawn[:, :-1] == draft)[:, None]
    ends = jnp.isin(drawn, jnp.asarray(eos_ids, jnp.int32)).astype(jnp.int32)
    ended = jnp.cumsum(ends, axis=1) - ends > 0
    return right & ~ended & (step < slots.remaining[:, None])


def _advance(
    slots: Slots, drawn: jax.Array, kept: Bool[Array, "B Q"], eos_ids: tuple[int, ...]
) -> Slots:
    """The slots behind the draws that were kept; idle ones stay as they are."""
    count = kept.sum(axis=1, dtype=jnp.int32)
    newest = jnp.take_along_axis(drawn, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    token = jnp.where(count > 0, newest, slots.token)
    ended = (kept & jnp.isin(drawn, jnp.asarray(eos_ids, jnp.int32))).any(axis=1)
    remaining = jnp.where(ended, 0, slots.remaining - count)
    return Slots(token, slots.position + count, remaining, slots.key, slots.options)


@partial(jax.jit, static_argnames=("layout", "shape"), donate_argnames="history")
def replay(
    history: Int32[Array, "B C"],
    slots: Slots,
    tokens: Int32[Array, "S W"],
    slot_ids: Int32[Array, " W"] | None = None,
    *,
    layout: Layout,
    shape: DraftShape,
) -> tuple[Int32[Array, "B C"], Int32[Array, " W"]]:
    """Writes a window of plain decoding into the history, and says what drafts had saved.

    Args:
        slots: as the window left them.
        tokens: of the window.

    Returns:
        the history, and the passes that each slot had taken with drafts.
    """
    kept = (tokens >= 0).sum(axis=0, dtype=jnp.int32)
    position = slots.position if slot_ids is None else slots.position[slot_ids]
    rows = history if slot_ids is None else history[slot_ids]

    def local(
        rows: jax.Array, tokens: jax.Array, end: jax.Array, kept: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        rows = remember(rows, tokens, end - kept, kept)
        return rows, passes_with_drafts(rows, end - kept, end, shape.count)

    end = shape.references + position + 1
    local = layout.shard_map(local, (layout.rows,) * 4, (layout.rows, layout.rows))
    rows, passes = local(rows, tokens.T, end, kept)
    return (rows if slot_ids is None else history.at[slot_ids].set(rows)), passes


@partial(jax.jit, static_argnames="layout", donate_argnames="history")
def set_histories(
    history: Int32[Array, "B C"],
    slot_ids: Int32[Array, " P"],
    rows: Int32[Array, "P C"],
    *,
    layout: Layout,
) -> Int32[Array, "B C"]:
    """The histories of requests that enter slots; an index beyond the last slot is ignored."""
    return layout.constrain(history.at[slot_ids].set(rows, mode="drop"), layout.rows)
