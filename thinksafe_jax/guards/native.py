"""A guard of this package: its answer is read from forward passes, nothing is generated.

The answer's form is appended to the prompt with its blanks filled in as expected, and one pass
gives the distribution at every blank. Where the guard would have written another word, that row
goes through again with the right one: the result is the guard's own greedy answer. There is no KV
cache, and the LM head sees the blanks only. What is unlikely to be any of the words is `unparsed`
(the authors' code says safe there, paper.md D3).
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thinksafe_jax import profiling
from thinksafe_jax.config import GuardModel
from thinksafe_jax.guards.answer_form import (
    MAX_OTHER_MASS,
    Answer,
    AnswerForm,
    FormReading,
    read_slot,
    template_hash,
)
from thinksafe_jax.guards.batching import bucket_lengths, make_batches
from thinksafe_jax.guards.formats import FORMATS
from thinksafe_jax.guards.guard_format import verdict_of
from thinksafe_jax.guards.protocol import Exchange, Verdict
from thinksafe_jax.guards.template import GuardInput
from thinksafe_jax.models import ModelConfig, Params, forward, load_config, logits
from thinksafe_jax.sharding import MeshConfig, ModelMesh
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


@dataclass(frozen=True)
class _Judged:
    """One exchange after a pass: what was sent, and how far the form could be read."""

    item: GuardInput
    reading: FormReading


class NativeGuard:
    """A guard of one format on one decoder.

    Args:
        params, model_cfg: the guard's decoder.
        tokenizer: the guard's own.
        cfg: its kind; its model, shown beside every verdict; `max_length` tokens of guard input,
            of which the model's context bounds more; `batch_tokens`; `authors_compat`.
        mesh: the mesh on which the parameters lie.

    Raises:
        ConfigError: there is no format of this kind.
        InputError: template, tokenizer, weights and format do not belong together.
    """

    weak = False

    def __init__(
        self,
        params: Params,
        model_cfg: ModelConfig,
        tokenizer: ChatTokenizer,
        cfg: GuardModel,
        *,
        mesh: ModelMesh | None = None,
    ):
        self.name, self.format, self.stats = cfg.model, FORMATS[cfg.kind], GuardStats()
        self.prompt = self.format.template(tokenizer, cfg.authors_compat)
        self.form = AnswerForm(self.prompt, self.format.slots(self.prompt))
        self.template = template_hash(self.prompt, self.form)
        self.max_length = min(cfg.max_length, model_cfg.max_position_embeddings)
        self._params, self._model_cfg, self._mesh = params, model_cfg, mesh
        self._batch_tokens = cfg.batch_tokens
        self._buckets = bucket_lengths(self.max_length)

    @classmethod
    def from_directory(
        cls, directory: Path, cfg: GuardModel, *, mesh: MeshConfig | None = None
    ) -> "NativeGuard":
        """The guard of a Hugging Face checkpoint directory, its weights cast to `cfg.dtype`.

        Args:
            mesh: its generate phase says how rows and weights lie on this process's devices;
                default: one device.
        """
        model_cfg = load_config(directory)
        model_mesh = ModelMesh.for_generation(mesh, model_cfg) if mesh else None
        shardings = model_mesh and model_mesh.param_shardings()
        params = load_params(directory, model_cfg, jnp.dtype(cfg.dtype), shardings)
        return cls(params, model_cfg, ChatTokenizer(directory), cfg, mesh=model_mesh)

    def judge(self, exchanges: Iterable[Exchange]) -> Iterator[Verdict]:
        """Verdicts in the order of the exchanges, judged in windows of 1,024."""
        rest = iter(exchanges)
        while window := list(islice(rest, _WINDOW)):
            judged = self._fill_in(window)
            readings = self._list_further(window, [j.reading for j in judged])
            for exchange, result, reading in zip(window, judged, readings, strict=True):
                yield self._verdict(exchange, result.item, reading)

    def _fill_in(self, exchanges: Sequence[Exchange]) -> list[_Judged]:
        """Every exchange's form, filled in as the guard would write it greedily.

        A pass reads all blanks behind guessed words. What stands behind a wrong guess was read
        after words that the guard would not have written, so that row goes through again with the
        right one; most rows take a single pass.
        """
        judged: dict[int, _Judged] = {}
        guesses = {n: dict(self.format.guess(e)) for n, e in enumerate(exchanges)}
        while guesses:
            answers = {n: self.form.answer(guess) for n, guess in guesses.items()}
            items = {n: self._encoded(exchanges[n], answer) for n, answer in answers.items()}
            judged |= {n: _Judged(item, FormReading()) for n, item in items.items()}
            fitting = [n for n, item in items.items() if item.ids is not None]
            inputs = [items[n].ids or [] for n in fitting]
            scores = self.scores(inputs, [answers[n] for n in fitting])
            wrong = {}
            for n, row in zip(fitting, scores, strict=True):
                reading = self.form.read(row, guesses[n], self.format.unsafe)
                judged[n] = _Judged(items[n], reading)
                if reading.correction:
                    wrong[n] = {**guesses[n], **reading.correction}
            guesses = wrong
        return [judged[n] for n in range(len(exchanges))]

    def _encoded(self, exchange: Exchange, answer: Answer) -> GuardInput:
        turns = (exchange.prompt, exchange.response)
        return self.prompt.encode(turns, self.max_length, answer.text, answer.drop)

    def _list_further(
        self, exchanges: Sequence[Exchange], readings: Sequence[FormReading]
    ) -> list[FormReading]:
        """The readings with all words of a listing blank; each word after the first costs a pass.

        The guard goes on where the separator is likelier than all else, to a word that it has not
        said yet. A blank after the list keeps what was read behind the first word.
        """
        slot, complete = self.form.listing, list(readings)
        going_on = [n for n, reading in enumerate(readings) if slot and self._lists(reading)]
        while slot and going_on:
            answers = [
                self.form.goes_on(self.form.said(complete[n].words, slot), slot) for n in going_on
            ]
            items = [self._encoded(exchanges[n], a) for n, a in zip(going_on, answers, strict=True)]
            rows = self.scores([item.ids or [0] for item in items], answers)
            longer = []
            for n, item, (separator, words) in zip(going_on, items, rows, strict=True):
                word, _, _ = read_slot(slot, words, frozenset())
                said = complete[n].words[slot.name]
                new = word and word not in said.split(slot.listing)
                if item.ids is not None and separator[0] > MAX_OTHER_MASS and new:
                    listed = {slot.name: f"{said}{slot.listing}{word}"}
                    complete[n] = replace(complete[n], words={**complete[n].words, **listed})
                    longer.append(n)
            going_on = longer
        return complete

    def _lists(self, reading: FormReading) -> bool:
        """Whether the guard named a first word where it may list several."""
        return "verdict" in reading.words and bool(self.format.read(reading.words).categories)

    def scores(
        self, inputs: Sequence[Sequence[int]], answers: Sequence[Answer]
    ) -> list[np.ndarray]:
        """Probability of each word at each blank, and of everything else: float32 `[S, W + 1]`.

        Args:
            inputs: token ids of each row, the answer's included.
            answers: where each row's blanks are; all of one form, so of one shape.
        """
        scores: list[np.ndarray] = [np.empty(0)] * len(inputs)
        shards = self._mesh.num_shards if self._mesh else 1
        batches = make_batches(inputs, self._buckets, self._batch_tokens, shards)
        results = []  # every batch is dispatched before the first result is waited for
        for batch in batches:
            blanks = _blanks(batch.lengths, [answers[row] for row in batch.rows])
            arrays = (batch.tokens, batch.lengths, *blanks)
            if self._mesh:
                arrays = jax.device_put(arrays, self._mesh.row_sharding)
            profiling.step("guard", results)
            results.append(score_words(self._params, *arrays, cfg=self._model_cfg, mesh=self._mesh))
        for batch, result in zip(batches, results, strict=True):
            # a batch has more rows than exchanges where it was filled up to its bucket's size
            for row, values in zip(batch.rows, np.asarray(result), strict=False):
                scores[row] = values
            self.stats.passes += len(batch.rows)
            self.stats.tokens += int(batch.lengths.sum())
            self.stats.computed_tokens += batch.tokens.size
        return scores

    def _verdict(self, exchange: Exchange, item: GuardInput, form: FormReading) -> Verdict:
        if item.ids is None:
            _log.warning(
                "guard %s: prompt %s alone exceeds %d tokens; verdict unparsed",
                self.name, exchange.id, self.max_length,
            )  # fmt: skip
        reading = self.format.read(form.words) if "verdict" in form.words else None
        self.stats.exchanges += 1
        self.stats.truncated += item.truncated
        self.stats.marked += item.marked
        self.stats.unparsed += reading is None
        verdict = verdict_of(self, exchange, reading, form.p_unsafe, form.other_mass)
        return replace(verdict, truncated=item.truncated, marked=item.marked)


def _blanks(lengths: np.ndarray, answers: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray]:
    """Positions i32 `[B, S]` that predict the blanks, and word ids i32 `[B, S, W]`.

    Args:
        lengths: i32 `[B]`, 0 in rows that only fill the batch up; they have no answer.
    """
    shape = answers[0].word_ids.shape
    positions = np.zeros((len(lengths), shape[0]), np.int32)
    word_ids = np.zeros((len(lengths), *shape), np.int32)
    for row, answer in enumerate(answers):
        positions[row] = lengths[row] - 1 - np.array(answer.from_end)
        word_ids[row] = answer.word_ids
    return positions, word_ids


@jax.jit(static_argnames=("cfg", "mesh"))
def score_words(
    params: Params,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    positions: Int[Array, "B S"],
    word_ids: Int[Array, "B S W"],
    *,
    cfg: ModelConfig,
    mesh: ModelMesh | None,
) -> Float[Array, "B S W+1"]:
    """Probability of each word at each blank, and in the last column of everything else.

    Args:
        tokens: i32, padded behind each row's length.
        positions: i32, of the tokens that predict the blanks.
        word_ids: i32, the token of each word; -1 where a blank has fewer words, which scores 0.
    """
    steps = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    segments = (steps < lengths[:, None]).astype(jnp.int32)
    on_mesh = {} if mesh is None else {"attention": mesh.attention, "constrain": mesh.constrain}
    hidden = forward(params, cfg, tokens, steps, segments, **on_mesh)  # [B, T, D]
    # the head sees the S blanks only: over all T positions its output would dwarf the activations
    at_blanks = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)  # [B, S, D]
    scores = logits(params, cfg, at_blanks)  # [B, S, V]
    said = jnp.take_along_axis(scores, jnp.maximum(word_ids, 0), axis=2)  # [B, S, W]
    said = jnp.exp(said - jax.nn.logsumexp(scores, axis=-1, keepdims=True))
    said = jnp.where(word_ids >= 0, said, 0.0)
    other = jnp.maximum(1.0 - said.sum(axis=-1, keepdims=True), 0.0)
    return jnp.concatenate([said, other], axis=-1)
