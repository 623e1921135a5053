"""Cross-entropy on harmful rows, the divergence from the untrained model on benign ones.

The paper's ThinkSafe with KL (section 4; the authors' `kl_trainer.py`). The reference is the same
model with its adapter off.
"""

import jax
import jax.numpy as jnp

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.training.batches import Tokens
from thinksafe_jax.training.divergences import make_divergence
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.losses import chunked_loss
from thinksafe_jax.training.model_pass import ModelPass
from thinksafe_jax.training.objectives import Sums
from thinksafe_jax.training.streams import Stream, Streams, target_weights


class CrossEntropyAndKl:
    """Two streams, `ce` and `kl`, divided by the targets of both."""

    stream_names = ("ce", "kl")

    def __init__(self, config: TrainingConfig):
        self._weighting, self._kl_weight = config.weighting, config.kl_weight
        self._divergence = make_divergence(config.kl, config.kl_top_k)

    def streams(self, example: Example) -> Streams:
        """The row's targets in one of the streams, zeros in the other."""
        stream = target_weights(example, self._weighting)
        nothing = Stream(0 * stream.weights, stream.count)
        ce, kl = (nothing, stream) if example.use_kl else (stream, nothing)
        return {"ce": ce, "kl": kl}

    def loss(self, model: ModelPass, rows: Tokens) -> tuple[jax.Array, Sums]:
        """The weighted sum of -log p, and `kl_weight` times that of the divergence."""
        hidden, kl = model.hidden(), rows.streams["kl"]
        sums = chunked_loss(
            hidden,
            model.head,
            rows.targets,
            rows.streams["ce"],
            reference=model.reference(kl != 0),
            kl_weights=self._kl_weight * kl,
            divergence=self._divergence,
            chunk=model.chunk,
        )
        return sums.loss, {
            "cross_entropy": sums.cross_entropy,
            "ce_weight": jnp.sum(rows.streams["ce"]),
            "kl": sums.kl,
            "kl_weight": jnp.sum(kl),
        }

    def metrics(self, sums: Sums) -> dict[str, jax.Array]:
        """The mean over the targets of harmful rows, and over those of benign ones."""
        return {
            "cross_entropy": sums["cross_entropy"] / sums["ce_weight"],
            "kl": sums["kl"] / (self._kl_weight * sums["kl_weight"]),
        }


OBJECTIVE = CrossEntropyAndKl
