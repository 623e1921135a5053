"""The loss that streams of weights describe: what most objectives share.

    stream      loss at a position                                  weight
    kl          divergence of the model from its reference          >= 0
    any other   -log p of the target: `ce`, `pg`, ...               of either sign

A policy gradient on policy is a stream of signed weights on -log p: the ratio to the policy that
sampled is 1, and its gradient is that of log p times the advantage.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.training.batches import Tokens
from thinksafe_jax.training.divergences import make_divergence
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.losses import LossSums, Reference, Rollout, chunked_loss
from thinksafe_jax.training.model_pass import ModelPass
from thinksafe_jax.training.objectives import Sums


class WeightedStreams:
    """Sums of weighted losses; a subclass says what the weights of a row are."""

    stream_names: tuple[str, ...]
    facts: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    rows_of_example = 1

    def __init__(self, config: TrainingConfig):
        self._weighting, self._kl_weight = config.weighting, config.kl_weight
        self._divergence = make_divergence(config.kl, config.kl_top_k)

    def rows(self, example: Example, epochs_left: int) -> Sequence[Example]:
        """The example as it is."""
        del epochs_left
        return (example,)

    def loss(self, model: ModelPass, rows: Tokens) -> tuple[jax.Array, Sums, Sums]:
        """The weighted sums of -log p, and `kl_weight` times that of the divergence."""
        losses = self.losses(model, rows)
        return losses.loss, self.sums(losses, rows), {}

    def sums(self, losses: LossSums, rows: Tokens) -> Sums:
        """What `metrics` makes means of: each stream's loss, and its weight without the sign."""
        sums = losses.nll | ({"kl": losses.kl} if "kl" in rows.streams else {})
        weights = {f"{n} weight": jnp.sum(jnp.abs(w)) for n, w in rows.streams.items()}
        return {**sums, **weights}

    def losses(
        self,
        model: ModelPass,
        rows: Tokens,
        rollout: Rollout | None = None,
        hidden: jax.Array | None = None,
    ) -> LossSums:
        """The sums over a pass.

        Args:
            rollout: how its targets were sampled.
            hidden: the model's states `[S, T, D]`, where they are known.
        """
        hidden, reference = model.hidden() if hidden is None else hidden, None
        split = model.split_sequences  # a device goes through its own positions only
        if (kl := rows.streams.get("kl")) is not None:
            reference = Reference(
                split(model.reference(kl != 0)),
                split(self._kl_weight * kl),
                self._divergence,
                model.reference_head,
            )
        if rollout is not None:
            temperature, sampled = split((rollout.temperature, rollout.sampled))
            rollout = Rollout(temperature, sampled, rollout.ratio_cap)
        losses = chunked_loss(
            split(hidden),
            model.head,
            split(rows.targets),
            split({name: w for name, w in rows.streams.items() if name != "kl"}),
            reference=reference,
            rollout=rollout,
            chunk=model.chunk,
        )
        return losses._replace(log_p=model.join_sequences(losses.log_p))

    def metrics(self, sums: Sums) -> dict[str, jax.Array]:
        """The mean of each stream, over its own weights."""
        means = {}
        for name in self.stream_names:
            if (weight := sums.get(f"{name} weight")) is None:
                continue
            scale = self._kl_weight * weight if name == "kl" else weight
            means[_LOGGED.get(name, name)] = sums[name] / scale
        return means


_LOGGED = {"ce": "cross_entropy", "pg": "policy_gradient"}  # names in metrics.jsonl
