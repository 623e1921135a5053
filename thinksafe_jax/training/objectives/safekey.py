"""SafeKey: the sentence that decides is learnt without the prompt, and harm is seen before it.

arXiv 2505.16186; train/sft.py of eric-ai-lab/SafeKey. A response has an understanding C of the
prompt and behind it a key sentence K, which says whether it will be answered.

    prompt | C C C | K K K | rest      every epoch: cross-entropy of the response
                                       last epochs: do the states up to C's end tell harm?
             C C C | K K K             last epochs: cross-entropy of K from C alone

Taking the prompt's tokens away is masking them: positions are relative, so nothing else changes.
The heads are two linear maps of the mean state, over C, and over all up to C's end; they are
trained beside the adapter and are in no export.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.training.batches import Tokens
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.model_pass import Head, ModelPass
from thinksafe_jax.training.objectives import Sums
from thinksafe_jax.training.objectives._weighted_streams import WeightedStreams
from thinksafe_jax.training.streams import (
    Stream,
    StreamedExample,
    Streams,
    given_streams,
    target_weights,
)


class SafeKey(WeightedStreams):
    """Three streams with three denominators: targets, those of key sentences, and marked rows."""

    stream_names = ("ce", "key", "gate")
    facts = ("understanding", "context", "harmful")
    heads = ("understanding", "context")
    rows_of_example = 2

    def __init__(self, config: TrainingConfig):
        super().__init__(config)
        self._numbers = config.safekey

    def streams(self, example: Example) -> Streams:
        """Those that `rows` gave the row."""
        return given_streams(example)

    def rows(self, example: Example, epochs_left: int) -> Sequence[Example]:
        """The row, and in the last epochs its understanding and key sentence without the prompt."""
        size, spans = len(example) - 1, example.spans
        ce = target_weights(example, self._weighting)
        if spans is None or epochs_left > self._numbers.last_epochs:
            return [_row(example, example.token_ids, example.loss_mask, {"ce": ce})]
        start = int(np.argmax(example.loss_mask))
        places = np.arange(size)
        up_to_end = places < spans.understanding_end
        of_understanding = up_to_end & (places >= start)
        gate = places == spans.understanding_end - 1  # any one place of the row
        facts = {
            "understanding": of_understanding / of_understanding.sum(),
            "context": up_to_end / up_to_end.sum(),
            "harmful": gate * float(spans.harmful),
        }
        whole = {"ce": ce, "gate": Stream(gate.astype(np.float32), 1.0)}
        alone = example.token_ids[start : spans.sentence_end]
        of_sentence = np.arange(len(alone)) >= spans.understanding_end - start
        key = Stream(of_sentence[1:].astype(np.float32), float(of_sentence[1:].sum()))
        return [
            _row(example, example.token_ids, example.loss_mask, whole, facts),
            _row(example, alone, of_sentence, {"key": key}),
        ]

    def loss(self, model: ModelPass, rows: Tokens) -> tuple[jax.Array, Sums, Sums]:
        """The weighted sums of the three."""
        weight, hidden = self._numbers.key_weight, model.hidden()
        likelihood = {"ce": rows.streams["ce"], "key": weight * rows.streams["key"]}
        losses = self.losses(model, rows._replace(streams=likelihood), hidden=hidden)
        gate = jnp.sum(rows.streams["gate"] * self._gate(model, rows, hidden))
        weights = {f"{n} weight": jnp.sum(jnp.abs(w)) for n, w in rows.streams.items()}
        sums = {"ce": losses.nll["ce"], "key": losses.nll["key"] / weight, "gate": gate}
        return losses.loss + self._numbers.gate_weight * gate, {**sums, **weights}, {}

    def _gate(
        self, model: ModelPass, rows: Tokens, hidden: Float[Array, "S T D"]
    ) -> Float[Array, "S T"]:
        """The binary cross-entropy of both heads, at every place the one of its row."""
        share = self._numbers.gate_share
        losses = []
        for name in self.heads:
            logit = _row_logits(model.heads[name], hidden, rows.facts[name], rows.segments)
            losses.append(jax.nn.softplus(logit) - rows.facts["harmful"] * logit)
        of_understanding, of_context = losses
        return share * of_understanding + (1 - share) * of_context


def _row(
    example: Example,
    token_ids: np.ndarray,
    loss_mask: np.ndarray,
    streams: Streams,
    facts: dict[str, np.ndarray] | None = None,
) -> StreamedExample:
    """A row with all streams and facts, zeros where it has none."""
    nothing = np.zeros(len(token_ids) - 1, np.float32)
    return StreamedExample(
        example.id,
        token_ids,
        loss_mask,
        facts={n: np.asarray((facts or {}).get(n, nothing), np.float32) for n in SafeKey.facts},
        streams={n: streams.get(n, Stream(nothing, 0.0)) for n in SafeKey.stream_names},
    )


def _row_logits(
    head: Head,
    hidden: Float[Array, "S T D"],
    shares: Float[Array, "S T"],
    segments: Int[Array, "S T"],
) -> Float[Array, "S T"]:
    """A head on the mean state of each packed row, at every place of it; float32.

    Args:
        shares: of each place in its row's mean.
        segments: which places are one row.
    """
    of_place = hidden.astype(jnp.float32) @ head["kernel"]
    shared = jnp.where(shares > 0, shares * of_place, 0.0)
    count = segments.shape[1] + 1
    of_row = jax.vmap(partial(jax.ops.segment_sum, num_segments=count))(shared, segments)
    return jnp.take_along_axis(of_row, segments, axis=1) + head["bias"]


OBJECTIVE = SafeKey
