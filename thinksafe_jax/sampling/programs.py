"""The three compiled programs of the sampler; all shapes are static, all state is donated.

    prefill  writes the keys and values of whole prompts into their pages
    admit    puts requests into slots
    decode   a window of N steps for every slot, finished ones masked

Prefill stops one token short: the last prompt token is decoded like any other, so only decode has
an LM head and a sampler, and a preempted request resumes by the same two programs.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from thinksafe_jax.models import (
    ModelConfig,
    Params,
    block,
    causal_attention,
    logits,
    rms_norm,
    rope_tables,
)
from thinksafe_jax.sampling.attention import implementation
from thinksafe_jax.sampling.kv_cache import Pool, write_prompts, write_tokens
from thinksafe_jax.sampling.layout import ONE_DEVICE, Layout
from thinksafe_jax.sampling.next_token import Options, sample


class Slots(NamedTuple):
    """State of every slot on the device, `[B]` each."""

    token: jax.Array  # i32, the newest token, whose keys and values are not yet written
    position: jax.Array  # i32, its position
    left: jax.Array  # i32, tokens still allowed; 0 is an idle slot
    key: jax.Array  # u32 [B, 2], the request's random key
    options: Options


def empty_slots(slots: int) -> Slots:
    """Every slot idle."""
    token, position, left = (jnp.zeros(slots, jnp.int32) for _ in range(3))
    options = Options(
        jnp.zeros(slots, jnp.float32),
        jnp.zeros(slots, jnp.int32),
        jnp.ones(slots, jnp.float32),
        jnp.zeros(slots, jnp.float32),
    )
    return Slots(token, position, left, jnp.zeros((slots, 2), jnp.uint32), options)


@partial(jax.jit, static_argnames=("cfg", "layout"), donate_argnames="pools")
def prefill(
    params: Params,
    pools: tuple[Pool, ...],
    tokens: jax.Array,
    lengths: jax.Array,
    pages: jax.Array,
    *,
    cfg: ModelConfig,
    layout: Layout = ONE_DEVICE,
) -> tuple[Pool, ...]:
    """Writes the KV of `tokens` i32 `[P, T]`, `lengths` of them each, into `pages` `[P, T / ps]`.

    No history, no logits: causal attention over the fresh tokens only. P is the number of shards
    of the slots, one prompt for each.
    """
    rows, length = tokens.shape
    steps = jnp.arange(length, dtype=jnp.int32)
    segments = (steps[None] < lengths[:, None]).astype(jnp.int32)
    rope = rope_tables(cfg, jnp.broadcast_to(steps, tokens.shape))
    x = params["embed"][tokens]
    cut = layout.rows
    heads, keys = (P(spec[0], None, *spec[1:]) for spec in (layout.queries, layout.keys))
    write = layout.island(write_prompts, (layout.pool, keys, keys, cut), layout.pool)
    attention = layout.island(causal_attention, (heads, keys, keys, cut), heads)
    product = layout.product(rows * length)
    written = []
    for weights, pool in zip(params["layers"], pools, strict=True):

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, pool: Pool = pool) -> jax.Array:
            written.append(write(pool, k, v, pages))
            return attention(q, k, v, segments)

        x = block(weights, cfg, x, rope, attend, product=product)
    return tuple(written)


@partial(jax.jit, static_argnames="layout", donate_argnames="slots")
def admit(
    slots: Slots,
    where: jax.Array,
    token: jax.Array,
    position: jax.Array,
    left: jax.Array,
    words: jax.Array,
    seed: jax.Array,
    options: Options,
    *,
    layout: Layout = ONE_DEVICE,
) -> Slots:
    """Puts P requests into the slots `where` i32 `[P]`; an index beyond the last slot is dropped.

    words: u32 `[P, 3]`, see `Request.random_words`; together with the seed they key the row.
    """

    def row_key(row: jax.Array) -> jax.Array:
        key = jax.random.key(seed)
        for word in range(3):
            key = jax.random.fold_in(key, row[word])
        return jax.random.key_data(key)

    new = Slots(token, position, left, jax.vmap(row_key)(words), options)
    placed = jax.tree.map(lambda old, value: old.at[where].set(value, mode="drop"), slots, new)
    return layout.keep(placed, layout.rows)


@partial(
    jax.jit,
    static_argnames=("cfg", "steps", "eos_ids", "layout", "attention"),
    donate_argnames=("pools", "slots"),
)
def decode(
    params: Params,
    pools: tuple[Pool, ...],
    slots: Slots,
    table: jax.Array,
    which: jax.Array | None = None,
    *,
    cfg: ModelConfig,
    steps: int,
    eos_ids: Sequence[int],
    layout: Layout = ONE_DEVICE,
    attention: str = "xla",
) -> tuple[tuple[Pool, ...], Slots, jax.Array, jax.Array]:
    """`steps` decode steps for every slot, or for the slots `which` i32 `[W]`.

    Args:
        table: pages of those slots, i32 `[W, pages]`.

    A fixed number of steps without a look at who has finished: an early exit would cost a
    reduction each step and save almost nothing while the queue is not empty.

    Returns:
        pools and slots, and for the window the tokens i32 `[steps, B or W]` (-1 where the slot
        was idle) with their log-probabilities, float32 of the same shape.
    """

    def draw_own(logits: jax.Array, slots: Slots) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.wrap_key_data(slots.key)
        keys = jax.vmap(jax.random.fold_in)(keys, slots.position + 1)
        return sample(logits, keys, slots.options, layout.vocab_axis)

    draw = layout.island(draw_own, (layout.logits, layout.rows), (layout.rows, layout.rows))
    product = layout.product(table.shape[0])

    def step(
        carry: tuple[tuple[Pool, ...], Slots], _: None
    ) -> tuple[tuple[tuple[Pool, ...], Slots], tuple[jax.Array, jax.Array]]:
        pools, slots = carry
        active = slots.left > 0
        hidden, pools = _decode_one(params, cfg, pools, slots, active, table, layout, attention)
        with jax.named_scope("sample"):
            token, logprob = draw(logits(params, cfg, hidden, product), slots)
        token = jnp.where(active, token, slots.token)
        ended = jnp.isin(token, jnp.asarray(eos_ids, jnp.int32))
        moved = active.astype(jnp.int32)
        left = jnp.where(ended, 0, slots.left - moved)
        new = Slots(token, slots.position + moved, left, slots.key, slots.options)
        return (pools, new), (jnp.where(active, token, -1), logprob)

    mine = slots if which is None else jax.tree.map(lambda x: x[which], slots)
    (pools, mine), (tokens, logprobs) = jax.lax.scan(step, (pools, mine), length=steps)
    if which is not None:
        mine = jax.tree.map(lambda x, new: x.at[which].set(new), slots, mine)
    return pools, mine, tokens, logprobs


def _decode_one(
    params: Params,
    cfg: ModelConfig,
    pools: tuple[Pool, ...],
    slots: Slots,
    active: jax.Array,
    table: jax.Array,
    layout: Layout,
    attention: str,
) -> tuple[jax.Array, tuple[Pool, ...]]:
    """Hidden state `[B, D]` of every slot's newest token, and the pools that now hold it."""
    page_size = pools[0][0].shape[2]
    # idle slots write to page 0, which belongs to nobody, and read one token
    page = jnp.take_along_axis(table, (slots.position // page_size)[:, None], axis=1)[:, 0]
    page = jnp.where(active, page, 0)
    offset = slots.position % page_size
    lengths = jnp.where(active, slots.position + 1, 1)
    rope = rope_tables(cfg, slots.position[:, None])
    x = params["embed"][slots.token][:, None]
    product = layout.product(table.shape[0])
    per_slot = (layout.rows,) * 4  # page, offset, table, lengths
    paged_attention = implementation(attention).attend

    def write_and_attend(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        pool: Pool,
        page: jax.Array,
        offset: jax.Array,
        table: jax.Array,
        lengths: jax.Array,
    ) -> tuple[jax.Array, Pool]:
        pool = write_tokens(pool, k, v, page, offset)
        return paged_attention(q, pool, table, lengths), pool

    own = layout.island(
        write_and_attend,
        (layout.queries, layout.keys, layout.keys, layout.pool, *per_slot),
        (layout.queries, layout.pool),
    )
    written = []
    for weights, pool in zip(params["layers"], pools, strict=True):

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, pool: Pool = pool) -> jax.Array:
            out, pool = own(q[:, 0], k[:, 0], v[:, 0], pool, page, offset, table, lengths)
            written.append(pool)
            return out[:, None]

        x = block(weights, cfg, x, rope, attend, product=product)
    return rms_norm(x[:, 0], params["final_norm"], cfg.rms_norm_eps), tuple(written)
