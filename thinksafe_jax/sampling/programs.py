"""The three compiled programs of the sampler; all shapes are static, all state is donated.

    prefill  writes the keys and values of whole prompts into their pages
    insert   puts requests into slots
    decode   a window of N steps for every slot, finished ones masked

Prefill stops one token short: the last prompt token is decoded like any other, so only decode has
an LM head and a sampler, and a preempted request resumes by the same two programs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int, Int32, UInt32

from thinksafe_jax.models import (
    Matmul,
    ModelConfig,
    Params,
    UnstackedAdapter,
    block,
    causal_attention,
    logits,
    rms_norm,
    rope_tables,
)
from thinksafe_jax.sampling.attention import attend_queries
from thinksafe_jax.sampling.kv_cache import KvCache, KvPages
from thinksafe_jax.sampling.layout import ONE_DEVICE, Layout
from thinksafe_jax.sampling.next_token import sample
from thinksafe_jax.sampling.sampling_options import IDLE, Column, Options

# q, k, v of one layer and its pages -> output, and the pages with k and v in them
CachedAttention = Callable[[jax.Array, jax.Array, jax.Array, KvPages], tuple[jax.Array, KvPages]]
_Carry = tuple[KvCache, "Slots"]
# by name: what a seed means does not depend on `jax_default_prng_impl`
_GENERATOR = "threefry2x32"


class Slots(NamedTuple):
    """State of every slot on the device, `[B]` each."""

    token: Array  # i32, the newest token, whose keys and values are not yet written
    position: Array  # i32, its position
    remaining: Array  # i32, tokens still allowed; 0 is an idle slot
    key: Array  # u32 [B, 2], the request's random key
    options: Options


class Insertion(NamedTuple):
    """Requests on their way into slots, `[P]` each; numpy on the host, then arrays on devices."""

    slot_ids: Column  # i32; an index beyond the last slot is ignored
    token: Column  # i32, the newest token
    position: Column  # i32, its position
    remaining: Column  # i32, tokens still allowed
    key_words: Column  # u32 [P, 3], `Request.random_words`
    options: Options


@dataclass(frozen=True)
class DecodeSpec:
    """What a decode program is compiled for.

    Attributes:
        steps: of a window.
        eos_ids: tokens that end a completion.
        layout: where slots, pages and heads lie.
        attention: a name in sampling/attention.
        sampling_logprobs: beside the model's own log-probability of each token that in the
            distribution which was drawn from: `[..., 2]` where `[...]` is said.
    """

    cfg: ModelConfig
    steps: int
    eos_ids: tuple[int, ...]
    layout: Layout = ONE_DEVICE
    attention: str = "xla"
    sampling_logprobs: bool = False


def empty_slots(slots: int) -> Slots:
    """Every slot idle."""
    token, position, remaining = (jnp.zeros(slots, jnp.int32) for _ in range(3))
    options = Options(*map(jnp.asarray, Options.of([IDLE] * slots)))
    return Slots(token, position, remaining, jnp.zeros((slots, 2), jnp.uint32), options)


@partial(jax.jit, static_argnames=("cfg", "layout"), donate_argnames="cache")
def prefill(
    params: Params,
    cache: KvCache,
    tokens: Int32[Array, "P T"],
    lengths: Int32[Array, " P"],
    page_ids: Int32[Array, "P N"],
    adapter: UnstackedAdapter | None = None,
    *,
    cfg: ModelConfig,
    layout: Layout = ONE_DEVICE,
) -> KvCache:
    """The cache with the keys and values of prompts in it; P is the number of shards of the slots.

    No history, no logits: causal attention over the fresh tokens only.

    Args:
        params: layers as a tuple (`unstack_layers`).
        tokens: one padded prompt for each shard.
        lengths: tokens of each that are real.
        page_ids: pages of the row's own shard; N is T / page size.
        adapter: beside the weights; None where there is none, or it is merged into them.
    """
    rows, length = tokens.shape
    steps = jnp.arange(length, dtype=jnp.int32)
    segments = (steps[None] < lengths[:, None]).astype(jnp.int32)
    rope = rope_tables(cfg, jnp.broadcast_to(steps, tokens.shape))
    heads, keys = (P(spec[0], None, *spec[1:]) for spec in (layout.queries, layout.keys))
    specs = cache.layers[0].specs(layout)
    write = layout.shard_map(KvPages.write_prompts, (specs, keys, keys, layout.rows), specs)
    local = partial(causal_attention, platform=layout.platform)
    attention = layout.shard_map(local, (heads, keys, keys, layout.rows), heads)

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, pages: KvPages
    ) -> tuple[jax.Array, KvPages]:
        read = pages.as_read(k), pages.as_read(v)
        return attention(q, *read, segments), write(pages, k, v, page_ids)

    x = params["embed"][tokens]
    matmul = layout.matmul(rows * length)
    # the hidden states behind the last layer are of no use: the compiler leaves them out
    return _run_layers(params, cfg, cache, x, rope, attend, matmul, adapter)[1]


@partial(jax.jit, static_argnames="layout", donate_argnames="slots")
def insert(
    slots: Slots, new: Insertion, seed: UInt32[Array, ""], *, layout: Layout = ONE_DEVICE
) -> Slots:
    """Puts requests into slots; `Insertion.key_words` and the seed together key each row."""

    def row_key(words: UInt32[Array, " 3"]) -> jax.Array:
        key = jax.random.key(seed, impl=_GENERATOR)
        for word in range(3):
            key = jax.random.fold_in(key, words[word])
        return jax.random.key_data(key)

    keys = jax.vmap(row_key)(new.key_words)
    rows = Slots(new.token, new.position, new.remaining, keys, new.options)
    inserted = jax.tree.map(
        lambda old, value: old.at[new.slot_ids].set(value, mode="drop"), slots, rows
    )
    return layout.constrain(inserted, layout.rows)


@partial(jax.jit, static_argnames="spec", donate_argnames=("cache", "slots"))
def decode(
    params: Params,
    cache: KvCache,
    slots: Slots,
    table: Int32[Array, "W N"],
    slot_ids: Int32[Array, " W"] | None = None,
    adapter: UnstackedAdapter | None = None,
    *,
    spec: DecodeSpec,
) -> tuple[KvCache, Slots, Int32[Array, "S W"], Float32[Array, "S W"] | Float32[Array, "S W 2"]]:
    """A window of S decode steps for every slot, or for the W slots `slot_ids`.

    Args:
        params: layers as a tuple (`unstack_layers`).
        table: pages of those slots.
        adapter: beside the weights; None where there is none, or it is merged into them.

    A fixed number of steps without a look at who has finished: an early exit would cost a
    reduction each step and save almost nothing while the queue is not empty.

    Returns:
        cache and slots, and for the window the tokens (-1 where the slot was idle) with their
        log-probabilities, two of each token where `spec.sampling_logprobs` (see `sample`).
    """

    def step(carry: _Carry, _: None) -> tuple[_Carry, tuple[jax.Array, jax.Array]]:
        cache, slots = carry
        active, newest = slots.remaining > 0, slots.token[:, None]
        hidden, cache = decode_hidden(params, cache, slots, newest, table, adapter, spec=spec)
        token, logprob = draw(params, hidden[:, 0], slots, spec)
        new = _advance(slots, token, spec.eos_ids)
        return (cache, new), (jnp.where(active, new.token, -1), logprob)

    # the cache is carried and not an output of the scan, which would copy it at every step
    window = slots if slot_ids is None else jax.tree.map(lambda x: x[slot_ids], slots)
    (cache, window), (tokens, logprobs) = jax.lax.scan(step, (cache, window), length=spec.steps)
    if slot_ids is not None:
        window = jax.tree.map(lambda x, new: x.at[slot_ids].set(new), slots, window)
    return cache, window, tokens, logprobs


def draw(
    params: Params, hidden: Float[Array, "B D"], slots: Slots, spec: DecodeSpec
) -> tuple[Int32[Array, " B"], Float32[Array, " B"] | Float32[Array, "B 2"]]:
    """The token behind each slot's newest, drawn from its hidden state, and its log-probability."""
    layout = spec.layout

    def draw_local(logits: jax.Array, slots: Slots) -> tuple[jax.Array, jax.Array]:
        # keyed by row and position: a token depends neither on its slot nor on a restart
        keys = jax.random.wrap_key_data(slots.key, impl=_GENERATOR)
        keys = jax.vmap(jax.random.fold_in)(keys, slots.position + 1)
        return sample(
            logits,
            keys,
            slots.options,
            layout.vocab_axis,
            sampling_logprobs=spec.sampling_logprobs,
        )

    local = layout.shard_map(draw_local, (layout.logits, layout.rows), (layout.rows, layout.rows))
    with jax.named_scope("sample"):
        return local(logits(params, spec.cfg, hidden, layout.matmul(len(hidden))), slots)


def _advance(slots: Slots, token: Int[Array, " B"], eos_ids: tuple[int, ...]) -> Slots:
    """The slots one token later; idle ones stay as they are."""
    active = slots.remaining > 0
    token = jnp.where(active, token, slots.token)
    ended = jnp.isin(token, jnp.asarray(eos_ids, jnp.int32))
    moved = active.astype(jnp.int32)
    remaining = jnp.where(ended, 0, slots.remaining - moved)
    return Slots(token, slots.position + moved, remaining, slots.key, slots.options)


def decode_hidden(
    params: Params,
    cache: KvCache,
    slots: Slots,
    tokens: Int32[Array, "B Q"],
    table: Int32[Array, "B N"],
    adapter: UnstackedAdapter | None = None,
    *,
    spec: DecodeSpec,
) -> tuple[Float[Array, "B Q D"], KvCache]:
    """Hidden states of each slot's next tokens, and the cache that now holds them.

    Args:
        tokens: from each slot's newest on; the one at its position, and those after it.
    """
    cfg, layout, queries = spec.cfg, spec.layout, tokens.shape[1]
    steps = jnp.arange(queries, dtype=jnp.int32)[None]
    active = (slots.remaining > 0)[:, None]
    positions = slots.position[:, None] + steps
    # idle slots, and tokens beyond a slot's last, write to page 0, which belongs to nobody; idle
    # slots read one token
    page = jnp.take_along_axis(table, positions // cache.page_size, axis=1)
    page = jnp.where(steps < slots.remaining[:, None], page, 0)
    offset = positions % cache.page_size
    end = (slots.position + slots.remaining)[:, None]
    lengths = jnp.where(active, jnp.minimum(positions + 1, end), 1)

    def write_and_attend(
        q: jax.Array, k: jax.Array, v: jax.Array, pages: KvPages, *of_slots: jax.Array
    ) -> tuple[jax.Array, KvPages]:
        page, offset, table, lengths = of_slots
        pages = pages.write_tokens(k, v, page, offset)
        return attend_queries(spec.attention, q, pages, table, lengths), pages

    # one region for both: the write stays on the device that will read it, so no pages travel
    specs = cache.layers[0].specs(layout)
    heads, keys = (P(of[0], None, *of[1:]) for of in (layout.queries, layout.keys))
    local = layout.shard_map(
        write_and_attend, (heads, keys, keys, specs, *(layout.rows,) * 4), (heads, specs)
    )

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, pages: KvPages
    ) -> tuple[jax.Array, KvPages]:
        return local(q, k, v, pages, page, offset, table, lengths)

    model = (params, cfg, cache, params["embed"][tokens], rope_tables(cfg, positions))
    x, cache = _run_layers(*model, attend, layout.matmul(tokens.size), adapter)
    return rms_norm(x, params["final_norm"], cfg.rms_norm_eps), cache


def _run_layers(
    params: Params,
    cfg: ModelConfig,
    cache: KvCache,
    x: jax.Array,
    rope: tuple[jax.Array, jax.Array],
    attend: CachedAttention,
    matmul: Matmul,
    adapter: UnstackedAdapter | None = None,
) -> tuple[jax.Array, KvCache]:
    """Hidden states `[B, T, D]` behind the last layer, and the cache with their keys and values.

    Layers are unrolled: a scan over them would have to slice each one out of stacked weights and
    pages at every step.
    """
    written: list[KvPages] = []
    for number, (weights, pages) in enumerate(zip(params["layers"], cache.layers, strict=True)):
        of_layer = adapter and adapter.layer(number)
        x = block(weights, cfg, x, rope, _keeping(attend, pages, written), of_layer, matmul)
    return x, KvCache(tuple(written))


def _keeping(
    attend: CachedAttention, pages: KvPages, written: list[KvPages]
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """`attend` over a layer's pages, as `block` calls it; the new pages go to the end of a list."""

    def attend_layer(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        out, new = attend(q, k, v, pages)
        written.append(new)
        return out

    return attend_layer
