"""Log-probabilities of sampled rows in the trainer's own forward pass; their gap to the sampler's.

rows, any lengths        by padded length, S rows a call        f32 [n, 2] for each row
prompt | response  --->  tokens [S, T], options [S]      --->   the model's own, and that in
                                                                the distribution drawn from
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Float32, Int32

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.models import logits
from thinksafe_jax.sampling import Options, token_logprobs
from thinksafe_jax.training.batches import Tokens
from thinksafe_jax.training.mesh import TrainingMesh
from thinksafe_jax.training.model_pass import ModelPass
from thinksafe_jax.training.row_batches import row_batches
from thinksafe_jax.training.setup import TrainingSetup

Tree = Any


@dataclass(frozen=True)
class SampledRow:
    """A prompt and what was sampled behind it.

    Attributes:
        id: names it in a `LogprobGap`.
        prompt_ids: at least one.
        token_ids: the response, with its end-of-sequence token (`sampling.Drawn`).
        sampling: temperature and filters that it was drawn with.
    """

    id: str
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    sampling: SamplingConfig


# (trainable, frozen, rows) -> f32 [response tokens, 2] of each row
RowLogprobs = Callable[[Tree, Tree, Sequence[SampledRow]], list[Float32[np.ndarray, "n 2"]]]


def make_row_logprobs(setup: TrainingSetup) -> RowLogprobs:
    """The function that scores rows as the sampler does: `score(trainable, frozen, rows)`.

    Its arguments are those of the training step: `frozen` is the base of an adapter, None without.
    It gives an array `[n, 2]` for each row: of each response token the model's own log-probability
    (temperature 1, nothing filtered) and that in the distribution that it was drawn from, in nats.
    Dropout is off. A few programs are compiled for each padded length. Of several processes all
    call it with the same rows.
    """
    mesh = setup.mesh
    shards, parts = (1, 1) if mesh is None else (mesh.num_shards, mesh.sequence_shards)
    compiled = jax.jit(_scores(setup), out_shardings=None if mesh is None else mesh.replicated)

    def score(trainable: Tree, frozen: Tree, rows: Sequence[SampledRow]) -> list[np.ndarray]:
        scores: list[np.ndarray] = [np.zeros((0, 2), np.float32)] * len(rows)
        whole = [[*row.prompt_ids, *row.token_ids] for row in rows]
        for batch in row_batches(whole, shards, parts):
            samplings = [rows[n].sampling for n in batch.members]
            # empty rows are as the last one: another draw would be one more for all
            samplings += samplings[-1:] * (len(batch.tokens) - len(samplings))
            arrays: Any = (batch.tokens, batch.lengths, Options.of(samplings))
            if mesh is not None:
                arrays = mesh.put(arrays, mesh.row_sharding)
            values = jax.device_get(compiled(trainable, frozen, *arrays))
            for place, n in enumerate(batch.members):
                start = len(rows[n].prompt_ids) - 1  # the state at t predicts token t + 1
                scores[n] = values[place, start : start + len(rows[n].token_ids)]
        return scores

    return score


@dataclass(frozen=True)
class LogprobGap:
    """How far the sampler's log-probabilities are from the trainer's, in nats.

    Attributes:
        mean, largest: of the absolute difference, over all tokens; NaN where one of them is.
        row: id of the row that holds the largest.
        tokens: how many were compared.
    """

    mean: float
    largest: float
    row: str
    tokens: int


def logprob_gap(
    rows: Sequence[SampledRow],
    sampled: Sequence[Sequence[float]],
    trained: Sequence[Float32[np.ndarray, "n 2"]],
) -> LogprobGap:
    """Compares the sampler's log-probabilities with the trainer's.

    Args:
        rows: with at least one token together.
        sampled: `Drawn.sampling_logprobs` of each.
        trained: of each, by `make_row_logprobs`.
    """
    gaps = [
        np.abs(scores[:, 1] - np.asarray(mine, np.float32))
        for mine, scores in zip(sampled, trained, strict=True)
    ]
    together = np.concatenate(gaps)
    worst = int(np.argmax(together))  # NaN counts as the largest
    ends = np.cumsum([len(gap) for gap in gaps])
    row = rows[int(np.searchsorted(ends, worst, side="right"))]
    return LogprobGap(float(together.mean()), float(together[worst]), row.id, len(together))


def _scores(setup: TrainingSetup) -> Callable[..., Float[Array, "S T 2"]]:
    """The function of one call; the logits of a few positions of every row exist at once."""
    mesh, lora = setup.mesh, setup.lora

    def scores(
        trainable: Tree,
        frozen: Tree,
        tokens: Int32[Array, "S T"],
        lengths: Int32[Array, " S"],
        options: Options,
    ) -> Float[Array, "S T 2"]:
        params, adapter = (trainable, None) if lora is None else (frozen, trainable)
        params = params if mesh is None else mesh.gather_vocabulary(params)
        positions = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
        segments = (positions < lengths[:, None]).astype(jnp.int32)
        targets = jnp.roll(tokens, -1, axis=1)
        rows = Tokens(tokens, positions, segments, targets, {})
        model = ModelPass(setup.cfg, params, adapter, lora, rows, None, "none", mesh)
        return _of_states(model, model.hidden(), options)

    return scores


def _of_states(
    model: ModelPass, hidden: Float[Array, "S T D"], options: Options
) -> Float32[Array, "S T 2"]:
    """Scores of the targets; the logits of a slice of T of every row exist at once.

    Args:
        options: of each row of the model.
    """
    parts = 1 if model.mesh is None else model.mesh.sequence_shards
    of_parts = jax.tree.map(lambda x: jnp.repeat(x[:, None], parts, axis=1), options)
    options = jax.tree.map(lambda x: x[:, 0], model.split_sequences(of_parts))
    hidden, all_targets = model.split_sequences((hidden, model.rows.targets))
    rows, length, width = hidden.shape
    size = min(length, max(1, model.chunk // rows))
    behind = -length % size
    states = jnp.pad(hidden, ((0, 0), (0, behind), (0, 0))).reshape(rows, -1, size, width)
    targets = jnp.pad(all_targets, ((0, 0), (0, behind))).reshape(rows, -1, size)
    local = _on_its_device(model.mesh, _of_logits)

    def of_slice(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        return local(logits(model.params, model.cfg, piece[0]), piece[1], options)

    slices = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (states, targets))
    scores = jnp.moveaxis(jax.lax.map(of_slice, slices), 0, 1)
    return model.join_sequences(scores.reshape(rows, -1, 2)[:, :length])


def _of_logits(
    logits: Float32[Array, "S C V"],
    targets: Int32[Array, "S C"],
    options: Options,
    axis: tuple[str, ...] | None = None,
) -> Float32[Array, "S C 2"]:
    rows, size, vocabulary = logits.shape
    each = jax.tree.map(lambda x: jnp.repeat(x, size), options)
    scores = token_logprobs(logits.reshape(-1, vocabulary), targets.reshape(-1), each, axis)
    return scores.reshape(rows, size, 2)


def _on_its_device(mesh: TrainingMesh | None, fn: Callable[..., jax.Array]) -> Callable:
    """`fn` of logits, targets and options on each device's own rows and part of the vocabulary."""
    if mesh is None:
        return fn
    vocab = tuple(mesh.rules["vocab"]) or None
    batch = (*mesh.rules["batch"], *mesh.rules["sequence"]) or None  # as rows of their own
    rows = PartitionSpec(batch)
    return jax.shard_map(
        partial(fn, axis=vocab),
        mesh=mesh.mesh,
        in_specs=(PartitionSpec(batch, None, vocab), rows, rows),
        out_specs=rows,
        check_vma=False,
    )
