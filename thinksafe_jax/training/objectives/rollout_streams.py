"""What a method of on_policy asks of answers that the model itself has given.

The streams come with the rows: which of `pg`, `ce` and `kl` there are, and every weight, is the
method's. Log-probabilities are those of the distribution that was sampled, at its temperature.
"""

import jax
import jax.numpy as jnp

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.training.batches import Tokens
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.losses import Rollout
from thinksafe_jax.training.model_pass import ModelPass
from thinksafe_jax.training.objectives import Sums
from thinksafe_jax.training.objectives._weighted_streams import WeightedStreams
from thinksafe_jax.training.streams import Streams, given_streams


class RolloutStreams(WeightedStreams):
    """Any of three streams, on rows of `StreamedExample`."""

    stream_names = ("pg", "ce", "kl")
    facts = ("temperature", "sampled")

    def __init__(self, config: TrainingConfig):
        super().__init__(config)
        self._ratio_cap = config.ratio_cap

    def streams(self, example: Example) -> Streams:
        """Those that the row brings."""
        return given_streams(example)

    def loss(self, model: ModelPass, rows: Tokens) -> tuple[jax.Array, Sums, Sums]:
        """As of other streams; and how far the sampler's log p is from this pass's own."""
        temperature, sampled = rows.facts["temperature"], rows.facts["sampled"]
        losses = self.losses(model, rows, Rollout(temperature, sampled, self._ratio_cap))
        assert losses.log_p is not None
        looked_at = jnp.any(jnp.stack([w != 0 for w in rows.streams.values()]), axis=0)
        gap = jnp.where(looked_at, jnp.abs(losses.log_p - sampled), 0.0)
        ratio = jnp.where(looked_at, jnp.exp(losses.log_p - sampled), 0.0)
        of_sampler = {
            "tokens": jnp.sum(looked_at.astype(jnp.float32)),
            "gap": jnp.sum(gap),
            "ratio": jnp.sum(ratio),
            "ratio squared": jnp.sum(ratio**2),
        }
        sums = self.sums(losses, rows) | of_sampler
        return losses.loss, sums, {"log_p_gap_max": jnp.max(gap)}

    def metrics(self, sums: Sums) -> dict[str, jax.Array]:
        """The mean of each stream, of the gap in nats, and the effective share of the tokens."""
        tokens = sums["tokens"]
        return super().metrics(sums) | {
            "log_p_gap": sums["gap"] / tokens,
            "effective_sample_share": sums["ratio"] ** 2 / (tokens * sums["ratio squared"]),
        }


OBJECTIVE = RolloutStreams
