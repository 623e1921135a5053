"""What turns a gradient into an update: one file for each `training.optimizer`.

Every file defines OPTIMIZER, an `Optimizer`.
"""

from typing import Protocol

import jax
import optax

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.variants import Variants


class Optimizer(Protocol):
    """An optimiser and the schedule of its learning rate."""

    def transform(self, config: TrainingConfig) -> optax.GradientTransformation:
        """Gradients to updates at learning rate 1; the step scales them by the rate."""
        ...

    def learning_rate(self, config: TrainingConfig, step: jax.Array, total_steps: int) -> jax.Array:
        """The rate of one step, float32 scalar; `step` is i32 and counts from 0."""
        ...


OPTIMIZERS: Variants[Optimizer] = Variants(__name__, "OPTIMIZER", "optimizer")


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """The transformation of the recipe's optimiser."""
    return OPTIMIZERS[config.optimizer].transform(config)
