"""A guard of this package: its answer is read from forward passes, nothing is generated.

The answer's form is appended to the prompt with its blanks filled in as expected, and one pass
gives the distribution at every blank. Where the guard would have written another word, that row
goes through again with the right one: the result is the guard's own greedy answer. There is no KV
cache, and the LM head sees the blanks only. What is unlikely to be any of the words is `unparsed`
(the authors' code says safe there, paper.md D3).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.guards.answer_form import (
    MAX_OTHER_MASS,
    Answer,
    AnswerForm,
    read_slot,
    template_hash,
)
from thinksafe_jax.guards.batching import bucket_lengths, make_batches
from thinksafe_jax.guards.formats import GuardFormat
from thinksafe_jax.guards.protocol import Exchange, Verdict
from thinksafe_jax.guards.template import GuardInput
from thinksafe_jax.models import ModelConfig, Params, forward, load_config, logits
from thinksafe_jax.sharding import ModelMesh
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import load_params

_WINDOW = 1024  # exchanges held and sorted by length at a time
_log = logging.getLogger(__name__)


@dataclass
class GuardStats:
    """What a guard has done so far; `padding` is computed tokens over real ones."""

    exchanges: int = 0
    truncated: int = 0
    unparsed: int = 0
    marked: int = 0  # texts that spell control tokens or lines of the guard's template
    passes: int = 0  # rows of all forward passes; equal to `exchanges` where every guess was right
    tokens: int = 0
    computed_tokens: int = 0

    @property
    def padding(self) -> float:
        return self.computed_tokens / self.tokens if self.tokens else 1.0


@dataclass
class _Asked:
    """One exchange on its way through the passes."""

    exchange: Exchange
    guess: dict[str, str]
    item: GuardInput = field(default_factory=lambda: GuardInput(None))
    words: dict[str, str] = field(default_factory=dict)
    p_unsafe: float | None = None
    other: float | None = None


class NativeGuard:
    """A guard of one format on one decoder.

    Args:
        params, model_cfg: the guard's decoder.
        tokenizer: the guard's own.
        fmt: how it is asked and answers, one of `FORMATS`.
        name: shown beside every verdict.
        max_length: tokens of guard input; never more than the model's context.
        batch_tokens: padded tokens per forward pass.
        authors_compat: the authors' double BOS (Llama-Guard only), for comparison.
        where: the mesh on which the parameters lie.

    Raises:
        InputError: template, tokenizer, weights and format do not belong together.
    """

    weak = False

    def __init__(
        self,
        params: Params,
        model_cfg: ModelConfig,
        tokenizer: ChatTokenizer,
        fmt: GuardFormat,
        *,
        name: str,
        max_length: int,
        batch_tokens: int,
        authors_compat: bool = False,
        where: ModelMesh | None = None,
    ):
        self.name, self.format, self.stats = name, fmt, GuardStats()
        self.prompt = fmt.template(tokenizer, authors_compat)
        self.form = AnswerForm(self.prompt, fmt.slots(self.prompt))
        self.template = template_hash(self.prompt, self.form)
        self.max_length = min(max_length, model_cfg.max_position_embeddings)
        self._params, self._cfg, self._batch_tokens = params, model_cfg, batch_tokens
        self._where = where
        self._buckets = bucket_lengths(self.max_length)
        largest = int(self.form.answer({}).word_ids.max())
        if largest >= model_cfg.vocab_size:
            raise InputError(
                f"{tokenizer.directory}: the guard's words reach token {largest}, but the model's "
                f"vocabulary ends at {model_cfg.vocab_size}; tokenizer and weights do not belong "
                "together"
            )

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        fmt: GuardFormat,
        *,
        dtype: Any,
        mesh: str | None = None,
        **settings: Any,
    ) -> "NativeGuard":
        """The guard of a Hugging Face checkpoint directory, its weights cast to `dtype`.

        Args:
            mesh: a mesh file or the name of one, whose generate phase says how rows and weights
                lie on this process's devices; default: one device.
            settings: the keyword arguments of the class.
        """
        cfg = load_config(directory)
        where = ModelMesh.generating(mesh, cfg) if mesh else None
        params = load_params(directory, cfg, dtype, where and where.params())
        return cls(params, cfg, ChatTokenizer(directory), fmt, where=where, **settings)

    def judge(self, exchanges: Iterable[Exchange]) -> Iterator[Verdict]:
        """Verdicts in the order of the exchanges, judged in windows of 1,024."""
        rest = iter(exchanges)
        while window := list(islice(rest, _WINDOW)):
            asked = [_Asked(e, dict(self.format.guess(e))) for e in window]
            left = asked
            while left:
                left = self._pass(left)
            self._list_further([one for one in asked if self._may_list(one)])
            yield from map(self._verdict, asked)

    def _pass(self, asked: Sequence[_Asked]) -> list[_Asked]:
        """One forward pass of each row; returns those whose guess was wrong."""
        answers = [self.form.answer(one.guess) for one in asked]
        for one, answer in zip(asked, answers, strict=True):
            one.item = self._encoded(one.exchange, answer)
        fitting = [n for n, one in enumerate(asked) if one.item.ids is not None]
        scores = self.scores(
            [asked[n].item.ids or [] for n in fitting], [answers[n] for n in fitting]
        )
        wrong = [self._take(asked[n], found) for n, found in zip(fitting, scores, strict=True)]
        return [asked[n] for n, again in zip(fitting, wrong, strict=True) if again]

    def _take(self, one: _Asked, scores: np.ndarray) -> bool:
        """Reads the blanks of one row in order; whether it must go through again."""
        one.words.clear()
        for slot, row in zip(self.form.slots, scores, strict=True):
            if slot.only_after and one.words.get(slot.only_after[0]) != slot.only_after[1]:
                continue
            word, p_unsafe, other = read_slot(slot, row, self.format.unsafe)
            if slot.name == "verdict":
                one.p_unsafe, one.other = p_unsafe, other
            if word is None:
                return False
            one.words[slot.name] = word
            expected = one.guess.get(slot.name, slot.words[0])
            if word != expected and slot is not self.form.slots[-1] and self._matters(one.words):
                one.guess[slot.name] = word
                return True
        return False

    def _matters(self, words: Mapping[str, str]) -> bool:
        """Whether a blank is left that the answer goes on to after these words."""
        left = [slot for slot in self.form.slots if slot.name not in words]
        conditions = [slot.only_after for slot in left]
        return any(c is None or words.get(c[0]) in (None, c[1]) for c in conditions)

    def _encoded(self, exchange: Exchange, answer: Answer) -> GuardInput:
        turns = (exchange.prompt, exchange.response)
        return self.prompt.encode(turns, self.max_length, answer.text, answer.drop)

    def _may_list(self, one: _Asked) -> bool:
        named = "verdict" in one.words and self.format.read(one.words).categories
        return bool(self.form.listing and named)

    def _list_further(self, asked: Sequence[_Asked]) -> None:
        """Reads on after the first word of a listing blank; each further word costs a pass.

        The guard goes on where the separator is likelier than all else, to a word that it has not
        said yet. A blank after the list keeps what was read behind the first word.
        """
        slot = self.form.listing
        while asked and slot:
            answers = [self.form.goes_on(self.form.said(one.words, slot), slot) for one in asked]
            items = [
                self._encoded(*pair)
                for pair in zip((a.exchange for a in asked), answers, strict=True)
            ]
            rows = self.scores([item.ids or [0] for item in items], answers)
            longer = []
            for one, item, (separator, words) in zip(asked, items, rows, strict=True):
                word, _, _ = read_slot(slot, words, frozenset())
                new = word and word not in one.words[slot.name].split(slot.listing)
                if item.ids is not None and separator[0] > MAX_OTHER_MASS and new:
                    one.words[slot.name] += f"{slot.listing}{word}"
                    longer.append(one)
            asked = longer

    def scores(
        self, inputs: Sequence[Sequence[int]], answers: Sequence[Answer]
    ) -> list[np.ndarray]:
        """Probability of each word at each blank, and of everything else: float32 `[S, W + 1]`."""
        found: list[np.ndarray] = [np.empty(0)] * len(inputs)
        ways = self._where.ways if self._where else 1
        batches = make_batches(inputs, self._buckets, self._batch_tokens, ways)
        results = []  # every batch is dispatched before the first result is waited for
        for batch in batches:
            places = self._places(batch.lengths, [answers[row] for row in batch.rows])
            arrays = (batch.tokens, batch.lengths, *places)
            if self._where:
                arrays = jax.device_put(arrays, self._where.leading())
            results.append(score_words(self._params, *arrays, cfg=self._cfg, where=self._where))
        for batch, result in zip(batches, results, strict=True):
            for row, values in zip(batch.rows, np.asarray(result), strict=False):
                found[row] = values
            self.stats.passes += len(batch.rows)
            self.stats.tokens += int(batch.lengths.sum())
            self.stats.computed_tokens += batch.tokens.size
        return found

    def _places(
        self, lengths: np.ndarray, answers: Sequence[Answer]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions i32 `[B, S]` that predict the blanks, and word ids i32 `[B, S, W]`."""
        shape = answers[0].word_ids.shape
        slots = np.zeros((len(lengths), shape[0]), np.int32)
        words = np.zeros((len(lengths), *shape), np.int32)
        for row, answer in enumerate(answers):
            slots[row] = lengths[row] - 1 - np.array(answer.from_end)
            words[row] = answer.word_ids
        return slots, words

    def _verdict(self, one: _Asked) -> Verdict:
        if one.item.ids is None:
            _log.warning(
                "guard %s: prompt %s alone exceeds %d tokens; verdict unparsed",
                self.name, one.exchange.id, self.max_length,
            )  # fmt: skip
        reading = self.format.read(one.words) if "verdict" in one.words else None
        self.stats.exchanges += 1
        self.stats.truncated += one.item.truncated
        self.stats.marked += one.item.marked
        self.stats.unparsed += reading is None
        return Verdict(
            one.exchange.id,
            reading.verdict if reading else "unparsed",
            one.p_unsafe if reading else None,
            one.exchange.scope,
            one.item.truncated,
            self.name,
            one.other,
            word=reading.word if reading else "",
            categories=reading.categories if reading else (),
            refusal=reading.refusal if reading else None,
            marked=one.item.marked,
            template=self.template,
        )


@jax.jit(static_argnames=("cfg", "where"))
def score_words(
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    slots: jax.Array,
    words: jax.Array,
    *,
    cfg: ModelConfig,
    where: ModelMesh | None,
) -> jax.Array:
    """float32 `[B, S, W + 1]` from tokens `[B, T]`, slots `[B, S]` and words `[B, S, W]`."""
    positions = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    segments = (positions < lengths[:, None]).astype(jnp.int32)
    spread = {} if where is None else {"attention": where.attention, "constrain": where.constrain}
    hidden = forward(params, cfg, tokens, positions, segments, **spread)  # [B, T, D]
    seen = jnp.take_along_axis(hidden, slots[:, :, None], axis=1)  # [B, S, D]
    scores = logits(params, cfg, seen)  # [B, S, V]
    said = jnp.take_along_axis(scores, jnp.maximum(words, 0), axis=2)  # [B, S, W]
    said = jnp.exp(said - jax.nn.logsumexp(scores, axis=-1, keepdims=True))
    said = jnp.where(words >= 0, said, 0.0)
    other = jnp.maximum(1.0 - said.sum(axis=-1, keepdims=True), 0.0)
    return jnp.concatenate([said, other], axis=-1)
