"""Cross-entropy of every response token (paper section 4, equation 3)."""

import jax
import jax.numpy as jnp

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.training.batches import Tokens
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.losses import chunked_loss
from thinksafe_jax.training.model_pass import ModelPass
from thinksafe_jax.training.objectives import Sums
from thinksafe_jax.training.streams import Streams, target_weights


class CrossEntropy:
    """One stream, `ce`."""

    stream_names = ("ce",)

    def __init__(self, config: TrainingConfig):
        self._weighting = config.weighting

    def streams(self, example: Example) -> Streams:
        """Every target of the response."""
        return {"ce": target_weights(example, self._weighting)}

    def loss(self, model: ModelPass, rows: Tokens) -> tuple[jax.Array, Sums]:
        """The weighted sum of -log p of the targets."""
        weights = rows.streams["ce"]
        sums = chunked_loss(model.hidden(), model.head, rows.targets, weights, chunk=model.chunk)
        return sums.loss, {"cross_entropy": sums.cross_entropy, "ce_weight": jnp.sum(weights)}

    def metrics(self, sums: Sums) -> dict[str, jax.Array]:
        """The mean over the targets."""
        return {"cross_entropy": sums["cross_entropy"] / sums["ce_weight"]}


OBJECTIVE = CrossEntropy
