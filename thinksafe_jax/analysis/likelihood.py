"""Teacher-forced scores of responses: log-probabilities, and the divergence of two models.

Rows of like length share a forward pass. The `[positions, V]` logits exist a slice at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thinksafe_jax.guards import bucket_lengths, make_batches
from thinksafe_jax.models import ModelConfig, Params, forward, logits
from thinksafe_jax.tokenizer import ChatTokenizer

_BATCH_TOKENS = 4096
Score = Callable[[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]], Float[Array, "B T-1"]]
_CHUNK = 256  # positions whose logits exist at once


@dataclass(frozen=True)
class Scored:
    """A prompt with its response, as ids; scores cover `ids[start:]`."""

    ids: Sequence[int]
    start: int

    def fits(self, cfg: ModelConfig) -> bool:
        """Whether there is a token to score, and none beyond the model's context."""
        return self.start < len(self.ids) <= cfg.max_position_embeddings


def sequence(tokenizer: ChatTokenizer, prompt: str, response: str, *, ended: bool = True) -> Scored:
    """A text pair as the model saw it: chat template around the prompt, raw response after it.

    Args:
        ended: the response came to its end, so the end-of-turn token is scored too.
    """
    head = tokenizer.prompt_ids(prompt)
    return Scored([*head, *tokenizer.response_ids(response, ended)], len(head))


def log_probabilities(
    params: Params, cfg: ModelConfig, rows: Sequence[Scored]
) -> list[Float[np.ndarray, " response"]]:
    """Log-probability in nats of each response token, float32, an array a row."""
    score = jax.jit(partial(_token_scores, cfg=cfg))
    return _by_row(rows, cfg, lambda tokens, lengths: score(params, tokens, lengths))


def token_divergence(
    tuned: Params, base: Params, cfg: ModelConfig, rows: Sequence[Scored]
) -> list[Float[np.ndarray, " response"]]:
    """KL(tuned || base) in nats of the next-token distribution at each response token.

    Args:
        tuned, base: layers stacked, as `models.forward` takes them.

    Returns:
        float32, an array a row.
    """
    score = jax.jit(partial(_token_divergence, cfg=cfg))
    return _by_row(rows, cfg, lambda tokens, lengths: score(tuned, base, tokens, lengths))


def _by_row(
    rows: Sequence[Scored], cfg: ModelConfig, score: Score
) -> list[Float[np.ndarray, " response"]]:
    longest = max((len(row.ids) for row in rows), default=1)
    buckets = bucket_lengths(min(cfg.max_position_embeddings, max(64, longest)))
    scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    for batch in make_batches([row.ids for row in rows], buckets, _BATCH_TOKENS):
        values = np.asarray(score(batch.tokens, batch.lengths))  # [B, T - 1]: of token t + 1
        for place, index in enumerate(batch.rows):
            row = rows[index]
            # the logits at t score token t + 1, so the response's first score is at start - 1
            scores[index] = values[place, row.start - 1 : len(row.ids) - 1]
    return scores


def _hidden(
    params: Params, tokens: Int[Array, "B T"], lengths: Int[Array, " B"], cfg: ModelConfig
) -> Float[Array, "B T-1 D"]:
    positions = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    segments = (positions < lengths[:, None]).astype(jnp.int32)
    return forward(params, cfg, tokens, positions, segments)[:, :-1]  # [B, T - 1, D]


def _chunks(hidden: Float[Array, "B T D"]) -> tuple[Float[Array, "N chunk D"], int]:
    """The positions of all rows in slices of `_CHUNK`, zeros behind the last; and how many."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    padded = jnp.pad(flat, ((0, -flat.shape[0] % _CHUNK), (0, 0)))
    return padded.reshape(-1, _CHUNK, hidden.shape[-1]), flat.shape[0]


def _token_scores(
    params: Params, tokens: Int[Array, "B T"], lengths: Int[Array, " B"], *, cfg: ModelConfig
) -> Float[Array, "B T-1"]:
    """Log-probability of each next token, float32."""
    hidden, count = _chunks(_hidden(params, tokens, lengths, cfg))
    targets = tokens[:, 1:].reshape(-1)
    targets = jnp.pad(targets, (0, hidden.shape[0] * _CHUNK - count)).reshape(-1, _CHUNK)

    def of_chunk(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        states, ids = piece  # [chunk, D], [chunk]; the [chunk, V] logits live in here alone
        log_p = jax.nn.log_softmax(logits(params, cfg, states), axis=-1)
        return jnp.take_along_axis(log_p, ids[:, None], axis=1)[:, 0]

    return jax.lax.map(of_chunk, (hidden, targets)).reshape(-1)[:count].reshape(tokens[:, 1:].shape)


def _token_divergence(
    tuned: Params,
    base: Params,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    *,
    cfg: ModelConfig,
) -> Float[Array, "B T-1"]:
    """KL of the distributions over each next token, float32."""
    left, count = _chunks(_hidden(tuned, tokens, lengths, cfg))
    right, _ = _chunks(_hidden(base, tokens, lengths, cfg))

    def of_chunk(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        log_p = jax.nn.log_softmax(logits(tuned, cfg, piece[0]), axis=-1)
        log_q = jax.nn.log_softmax(logits(base, cfg, piece[1]), axis=-1)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)

    return jax.lax.map(of_chunk, (left, right)).reshape(-1)[:count].reshape(tokens[:, 1:].shape)
