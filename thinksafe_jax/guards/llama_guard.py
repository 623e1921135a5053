"""Guards whose first token is the verdict: Llama-Guard-3 and every checkpoint in its format.

One forward pass gives the distribution of the first token; nothing is generated, there is no KV
cache, and the LM head sees one position per exchange. Where neither `safe` nor `unsafe` is likely
the verdict is `unparsed` (the authors' code says safe there).
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.guards.batching import bucket_lengths, make_batches
from thinksafe_jax.guards.protocol import Exchange, Verdict
from thinksafe_jax.guards.template import ConversationTemplate, GuardInput
from thinksafe_jax.models import ModelConfig, Params, forward, load_config, logits
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import load_params

_WINDOW = 1024  # exchanges held and sorted by length at a time
_MAX_OTHER_MASS = 0.5  # above it, neither word is the guard's answer
_log = logging.getLogger(__name__)


@dataclass
class GuardStats:
    """What a guard has done so far; `padding` is computed tokens over real ones."""

    exchanges: int = 0
    truncated: int = 0
    unparsed: int = 0
    marked: int = 0  # texts that spell control tokens or lines of the guard's template
    tokens: int = 0
    computed_tokens: int = 0

    @property
    def padding(self) -> float:
        return self.computed_tokens / self.tokens if self.tokens else 1.0


class LlamaGuard:
    """First-token guard.

    Args:
        params, model_cfg: the guard's decoder.
        tokenizer: the guard's, with its chat template.
        name: shown beside every verdict.
        max_length: tokens of guard input; never more than the model's context.
        batch_tokens: padded tokens per forward pass.

    Raises:
        InputError: the template is not Llama-Guard's, or `safe` and `unsafe` are not single,
            different tokens after it.
    """

    weak = False

    def __init__(
        self,
        params: Params,
        model_cfg: ModelConfig,
        tokenizer: ChatTokenizer,
        *,
        name: str,
        max_length: int,
        batch_tokens: int,
    ):
        self.name = name
        self.stats = GuardStats()
        self.template = ConversationTemplate(tokenizer)
        self.max_length = min(max_length, model_cfg.max_position_embeddings)
        self._params = params
        self._batch_tokens = batch_tokens
        self._buckets = bucket_lengths(self.max_length)
        words = self.template.word_ids
        if max(words) >= model_cfg.vocab_size:
            raise InputError(
                f"{tokenizer.directory}: safe and unsafe are tokens {words}, but the model's "
                f"vocabulary ends at {model_cfg.vocab_size}; tokenizer and weights do not belong "
                "together"
            )
        self._score = jax.jit(partial(_score, cfg=model_cfg, words=words))

    @classmethod
    def from_directory(
        cls, directory: Path, *, name: str, dtype: Any, max_length: int, batch_tokens: int
    ) -> "LlamaGuard":
        """The guard of a Hugging Face checkpoint directory, its weights cast to `dtype`."""
        tokenizer = ChatTokenizer(directory)
        cfg = load_config(directory)
        params = load_params(directory, cfg, dtype)
        return cls(
            params, cfg, tokenizer, name=name, max_length=max_length, batch_tokens=batch_tokens
        )

    def judge(self, exchanges: Iterable[Exchange]) -> Iterator[Verdict]:
        """Verdicts in the order of the exchanges, judged in windows of 1,024."""
        rest = iter(exchanges)
        while window := list(islice(rest, _WINDOW)):
            yield from self._judge_window(window)

    def _judge_window(self, window: Sequence[Exchange]) -> Iterator[Verdict]:
        inputs = [self.template.encode(e.prompt, e.response, self.max_length) for e in window]
        readable = [n for n, item in enumerate(inputs) if item.ids is not None]
        scored = self._scores([inputs[n].ids or [] for n in readable])
        scores = dict(zip(readable, scored, strict=True))
        for n, (exchange, item) in enumerate(zip(window, inputs, strict=True)):
            verdict = self._verdict(exchange, item, scores.get(n))
            self._count(verdict, item)
            yield verdict

    def _scores(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """P(safe), P(unsafe), P(anything else) as the first token: float32 `[N, 3]`."""
        out = np.full((len(inputs), 3), np.nan, np.float32)
        batches = make_batches(inputs, self._buckets, self._batch_tokens)
        # every batch is dispatched before the first result is waited for
        results = [self._score(self._params, batch.tokens, batch.lengths) for batch in batches]
        for batch, result in zip(batches, results, strict=True):
            out[list(batch.rows)] = np.asarray(result)[: len(batch.rows)]
            self.stats.tokens += int(batch.lengths.sum())
            self.stats.computed_tokens += batch.tokens.size
        return out

    def _verdict(self, exchange: Exchange, item: GuardInput, scores: np.ndarray | None) -> Verdict:
        if scores is None:
            _log.warning(
                "guard %s: prompt %s alone exceeds %d tokens; verdict unparsed",
                self.name, exchange.id, self.max_length,
            )  # fmt: skip
            return Verdict(exchange.id, "unparsed", None, exchange.scope, False, self.name)
        safe, unsafe, other = (float(p) for p in scores)
        word, p_unsafe = read_first_token(safe, unsafe, other)
        mass = other if math.isfinite(other) else None
        return Verdict(exchange.id, word, p_unsafe, exchange.scope, item.truncated, self.name, mass)

    def _count(self, verdict: Verdict, item: GuardInput) -> None:
        self.stats.exchanges += 1
        self.stats.truncated += item.truncated
        self.stats.marked += item.marked
        self.stats.unparsed += verdict.verdict == "unparsed"


def read_first_token(safe: float, unsafe: float, other: float) -> tuple[str, float | None]:
    """(verdict, normalised P(unsafe)) of the first token's probabilities.

    The comparisons are written so that NaN ends as unparsed.
    """
    if not (other <= _MAX_OTHER_MASS and safe + unsafe > 0.0):
        return "unparsed", None
    p_unsafe = unsafe / (safe + unsafe)
    return ("unsafe" if p_unsafe >= 0.5 else "safe"), p_unsafe


def _score(
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    *,
    cfg: ModelConfig,
    words: tuple[int, ...],
) -> jax.Array:
    """float32 `[B, 3]` from tokens `[B, T]`: softmax over the vocabulary at the last token."""
    positions = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    segments = (positions < lengths[:, None]).astype(jnp.int32)
    hidden = forward(params, cfg, tokens, positions, segments)  # [B, T, D]
    last = jnp.maximum(lengths - 1, 0)
    final = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]  # [B, D]
    log_p = jax.nn.log_softmax(logits(params, cfg, final), axis=-1)  # [B, V]
    said = jnp.exp(log_p[:, jnp.array(words)])  # [B, 2]
    other = jnp.maximum(1.0 - said.sum(axis=-1, keepdims=True), 0.0)
    return jnp.concatenate([said, other], axis=-1)
