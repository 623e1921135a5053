"""Drawing the next token: temperature, top-k, top-p, min-p, greedy; each row by its own options.

The order is transformers': temperature, top-k, top-p over the renormalised rest, then min-p, which
vLLM takes before the other two. Of equal scores the first `top_k` are kept. One uniform number a
row picks its token; there is no sort and no random draw over the vocabulary. A row's token depends
on its own logits, options and key alone, and it is drawn in one of three ways:

    filtered     the 64 most likely tokens hold all that may be drawn: nearly every filtered row
    unfiltered   nothing is left out: the sums of blocks of the vocabulary, then one block
    wide         the filters may keep more than 64 tokens: what they keep is found first, exactly

The vocabulary may be split over a mesh axis (`axis`, inside `jax.shard_map`). What crosses the
axis is 64 candidates and a few numbers a row, never logits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Key

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.sampling.sampling_options import Options, mass_limit
from thinksafe_jax.sampling.vocab_split import CANDIDATES, Draw, VocabSplit, draw_by_mass
from thinksafe_jax.sampling.wide_draw import draw_wide

# Of what a seed means. 2: unfiltered and wide rows sum their masses block by block, where 1 summed
# them over the vocabulary; where rounding puts a uniform number on the other side of an end, the
# token is another one. In 1, top-p after a top-k above 64 closed too early. All other rows are
# drawn as in 1.
DRAW_VERSION = 2


def draws_as_before(sampling: SamplingConfig, version: int) -> bool:
    """Whether an earlier version of the draw gives the tokens of this one, under these options.

    The rows that 2 drew otherwise than 1 could not have been told apart beforehand: those whose
    filters may keep more than the candidates.
    """
    narrow = 0 < sampling.top_k <= CANDIDATES
    return version == DRAW_VERSION or sampling.temperature == 0 or narrow


def sample(
    logits: Float32[Array, "B V"],
    keys: Key[Array, " B"],
    options: Options,
    axis: tuple[str, ...] | None = None,
    *,
    sampling_logprobs: bool = False,
) -> tuple[Int32[Array, " B"], Float32[Array, " B"] | Float32[Array, "B 2"]]:
    """Draws one token a row.

    Args:
        logits: unscaled; this shard's part of the vocabulary under `axis`.
        keys: random keys, one for each row and position.
        options: per-row options.
        axis: mesh axes over which the vocabulary is split, in order.
        sampling_logprobs: also gives the log-probability in the distribution that is drawn from.

    Returns:
        tokens, and their log-probabilities at temperature 1, unfiltered; with `sampling_logprobs`
        beside them those at the row's temperature among what its filters keep: 0 if it is greedy.
    """
    split = VocabSplit(axis, logits.shape[1])
    uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)
    draw = _draw(logits, uniform, options, split, weigh=sampling_logprobs)
    return draw.tokens, _logprobs(logits, draw, options, split)


def token_logprobs(
    logits: Float32[Array, "B V"],
    tokens: Int32[Array, " B"],
    options: Options,
    axis: tuple[str, ...] | None = None,
) -> Float32[Array, "B 2"]:
    """Log-probabilities of given tokens as `sample` gives them with `sampling_logprobs`.

    A token that was drawn from logits which differ in their last bits may just miss what the
    filters keep of these; it is counted against what they keep all the same.
    """
    split = VocabSplit(axis, logits.shape[1])
    none = jnp.zeros(len(tokens), jnp.float32)
    draw = _draw(logits, none, options, split, weigh=True)
    return _logprobs(logits, draw._replace(tokens=tokens), options, split)


def _draw(
    logits: jax.Array, uniform: jax.Array, options: Options, split: VocabSplit, *, weigh: bool
) -> Draw:
    """The token at the place `uniform` `[B]` of what may be drawn; `weigh` that, too."""
    scaled = _scaled(logits, options)
    free = _unfiltered(options, split.vocabulary)

    def unfiltered() -> Draw:
        top = split.max(scaled)[:, None, None]
        tokens = draw_by_mass(scaled, lambda x: jnp.exp(x - top), uniform, split)
        return Draw(tokens, split.logsumexp(scaled) if weigh else None)

    def some_filtered() -> Draw:
        draw, wide = _draw_filtered(logits, scaled, uniform, options, split)
        draw = draw if weigh else Draw(draw.tokens)
        draw = draw_wide(scaled, uniform, options, wide & ~free, draw, split)
        return jax.lax.cond(free.any(), lambda: draw.with_rows(free, unfiltered()), lambda: draw)

    return jax.lax.cond(free.all(), unfiltered, some_filtered)


def _logprobs(logits: jax.Array, draw: Draw, options: Options, split: VocabSplit) -> jax.Array:
    """The model's own `[B]`, or beside it that in the distribution drawn from, `[B, 2]`."""
    logprobs = split.pick(logits, draw.tokens) - split.logsumexp(logits)
    if draw.log_mass is None:
        return logprobs
    of_draw = split.pick(_scaled(logits, options), draw.tokens) - draw.log_mass
    of_draw = jnp.where(options.temperature > 0, of_draw, jnp.float32(0))
    return jnp.stack([logprobs, of_draw], axis=-1)


def _scaled(logits: jax.Array, options: Options) -> jax.Array:
    temperature = jnp.where(options.temperature > 0, options.temperature, jnp.float32(1))
    return logits / temperature[:, None]


def _unfiltered(options: Options, vocabulary: int) -> jax.Array:
    """Rows `[B]` that may draw any token, and more than the candidates hold."""
    no_filter = (options.top_k == 0) & (options.top_p >= 1) & (options.min_p == 0)
    return no_filter & (options.temperature > 0) & (vocabulary > CANDIDATES)


def _draw_filtered(
    logits: jax.Array, scaled: jax.Array, uniform: jax.Array, options: Options, split: VocabSplit
) -> tuple[Draw, jax.Array]:
    """Tokens `[B]` out of the candidates, and the rows whose candidates do not hold all."""
    temperature = jnp.where(options.temperature > 0, options.temperature, jnp.float32(1))
    top_values, top_ids = split.top_candidates(logits)
    chosen, log_mass, complete = _draw_candidates(
        top_values / temperature[:, None],
        split.logsumexp(scaled),
        uniform,
        options,
        split.vocabulary,
    )
    greedy = options.temperature == 0
    chosen = jnp.where(greedy, 0, chosen)
    tokens = jnp.take_along_axis(top_ids, chosen[:, None], axis=1)[:, 0]
    return Draw(tokens, log_mass), ~(complete | greedy)


def _draw_candidates(
    values: jax.Array,
    log_total: jax.Array,
    uniform: jax.Array,
    options: Options,
    vocabulary: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Index among the candidates; log of the kept mass; whether they hold all that may be drawn.

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
    nucleus = before < mass_limit(options)[:, None]
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
    log_mass = total + jnp.log(cdf[:, -1])
    return jnp.minimum(chosen, last), log_mass, closed | (count == vocabulary)
