"""Drafts without a model: how a text may go on, by where its last tokens stood before.

    history of a slot, [columns]:
    | other texts of its kind, -1 between them | prompt | response so far |  free  |
    0                                     references                       end

The longest run of last tokens that stood earlier is looked up, the newest place where several are
as long, and what followed there is the draft. Own text lies last and so comes before others'. A
draft never changes a text: a pass over it says how much of it the model would have drawn anyway.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

LONGEST_RUN = 6  # last tokens that are compared; longer ones are told apart by which is newer
NOTHING = -1  # no token: between texts, and where there is no draft


@dataclass(frozen=True)
class DraftShape:
    """Static sizes of drafting.

    Attributes:
        count: tokens of a draft; a pass runs over one position more.
        references: columns of a history before the slot's own text.
        context: columns of the text itself: its longest.
    """

    count: int
    references: int
    context: int

    @property
    def columns(self) -> int:
        """Of a slot's history."""
        return self.references + self.context

    @property
    def positions(self) -> int:
        """Of one pass: tokens that it makes at most."""
        return self.count + 1


def propose(
    history: Int32[Array, "B C"], end: Int32[Array, " B"], count: int
) -> Int32[Array, "B K"]:
    """A draft of `count` tokens for each text; NOTHING where its last token is new.

    A run that repeats goes on being repeated: where the draft reaches the end of the text, it goes
    on with what it has drafted.

    Args:
        end: column behind each text's newest token; what lies beyond is not looked at.
    """
    columns = history.shape[1]
    column = jnp.arange(columns, dtype=jnp.int32)[None]
    same = column < end[:, None] - 1
    run = jnp.zeros(history.shape, jnp.int32)
    for back in range(LONGEST_RUN):
        last = jnp.take_along_axis(history, jnp.maximum(end[:, None] - 1 - back, 0), axis=1)
        shifted = jnp.pad(history, ((0, 0), (back, 0)), constant_values=NOTHING)[:, :columns]
        same &= (shifted == last) & (last != NOTHING)
        run += same.astype(jnp.int32)
    best = (run * columns + column).max(axis=1)[:, None]  # the longest, then the newest
    place, seen_before = best % columns, best >= columns
    period = jnp.maximum(end[:, None] - 1 - place, 1)
    following = place + 1 + jnp.arange(count, dtype=jnp.int32)[None] % period
    draft = jnp.take_along_axis(history, jnp.minimum(following, columns - 1), axis=1)
    return jnp.where(seen_before, draft, NOTHING)


def remember(
    history: Int32[Array, "B C"],
    tokens: Int32[Array, "B T"],
    first: Int32[Array, " B"],
    kept: Int32[Array, " B"],
) -> Int32[Array, "B C"]:
    """The history with the first `kept` of `tokens` in it, from column `first` on."""
    step = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    column = jnp.where(step < kept[:, None], first[:, None] + step, history.shape[1])
    return jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop"))(history, column, tokens)


def passes_with_drafts(
    history: Int32[Array, "B C"], first: Int32[Array, " B"], end: Int32[Array, " B"], count: int
) -> Int32[Array, " B"]:
    """How many passes the columns from `first` to `end` would have taken with drafts.

    The text is known, so no model is needed: a pass makes what the draft has right, and one more.
    """

    def one_pass(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        at, passes = state
        draft = propose(history, at, count)
        column = at[:, None] + jnp.arange(count, dtype=jnp.int32)[None]
        text = jnp.take_along_axis(history, jnp.minimum(column, history.shape[1] - 1), axis=1)
        right = agreeing((draft == text) & (column < end[:, None]))
        unfinished = at < end
        made = jnp.minimum(right + 1, end - at)
        return jnp.where(unfinished, at + made, at), passes + unfinished.astype(jnp.int32)

    start = first, jnp.zeros_like(first)
    return jax.lax.while_loop(lambda state: (state[0] < end).any(), one_pass, start)[1]


def agreeing(same: Array) -> Int32[Array, " B"]:
    """Positions from the first on that agree, of bool `[B, K]`."""
    return jnp.cumprod(same.astype(jnp.int32), axis=1).sum(axis=1, dtype=jnp.int32)
