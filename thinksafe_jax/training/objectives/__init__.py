"""What a training step minimises: one file for each `training.objective`.

Every file defines OBJECTIVE, a class made with the recipe's `training` section. The step and the
trainer know no objective. They ask it four things:

    on the host      rows(example, epochs)    the rows that an example becomes, mostly itself
                     streams(row)             which tokens count, and for how much
    on the device    loss(model, rows)        the sum over one forward pass, and what to report
    after the step   metrics(sums)            means, each over its own denominator

In between, sums and gradients are added up over the passes of the whole optimiser step, and divided
once. So a new objective is a new file here, with its test.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.training.batches import Tokens
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.model_pass import ModelPass
from thinksafe_jax.training.streams import Streams
from thinksafe_jax.variants import Variants

Sums = dict[str, jax.Array]  # scalars by name, which add up over passes


class Objective(Protocol):
    """What is asked of an objective; it may only depend on the recipe.

    Attributes:
        stream_names: of what `streams` returns for any row.
        facts: what it reads of `Tokens.facts`, an array `[S, T]` each.
        heads: names of linear maps from a state to a number, which are trained beside the adapter,
            or beside the parameters, and are in no export.
        rows_of_example: the most rows that an example becomes.
    """

    stream_names: tuple[str, ...]
    facts: tuple[str, ...]
    heads: tuple[str, ...]
    rows_of_example: int

    def rows(self, example: Example, epochs_left: int) -> Sequence[Example]:
        """The rows that an example becomes; `epochs_left` is 1 in the last epoch."""
        ...

    def streams(self, example: Example) -> Streams:
        """The weights of a row's targets, by stream."""
        ...

    def loss(self, model: ModelPass, rows: Tokens) -> tuple[jax.Array, Sums, Sums]:
        """The loss of one forward pass, what to add up beside it, and what to keep the largest of.

        Args:
            model: the weights in training on these rows.
            rows: arrays `[S, T]`; `rows.streams` as packed from `streams`.

        Returns:
            A float32 scalar in nats, differentiated with respect to what is trained. It is a sum
            over positions, without a mean: the step divides by the denominator of all its passes.
        """
        ...

    def metrics(self, sums: Sums) -> dict[str, jax.Array]:
        """Scalars for the log, from the sums over all passes; NaN where nothing was to measure."""
        ...


OBJECTIVES: Variants[Callable[[TrainingConfig], Objective]] = Variants(
    __name__, "OBJECTIVE", "objective"
)


def make_objective(config: TrainingConfig) -> Objective:
    """The objective of a recipe.

    Raises:
        ConfigError: none of that name.
    """
    return OBJECTIVES[config.objective](config)
