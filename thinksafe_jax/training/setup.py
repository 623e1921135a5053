"""What every compiled function of training is made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import LoraConfig, ModelConfig, abstract_params, init_adapter
from thinksafe_jax.training.batches import Batches, BatchShape
from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.mesh import TrainingMesh
from thinksafe_jax.training.objectives import Objective, make_objective
from thinksafe_jax.training.optimizers import OPTIMIZERS, Optimizer, make_optimizer

Tree = Any  # nested dict of arrays


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """A model, the recipe's `training` section, and where the arrays lie.

    Attributes:
        cfg: architecture of the model.
        config: the numbers.
        mesh: None on one device.
    """

    cfg: ModelConfig
    config: TrainingConfig
    mesh: TrainingMesh | None = None

    @cached_property
    def lora(self) -> LoraConfig | None:
        """The adapter's shape; None where the parameters themselves are trained."""
        return None if self.config.full_finetune else lora_config(self.config)

    @cached_property
    def objective(self) -> Objective:
        return make_objective(self.config)

    @cached_property
    def optimizer(self) -> Optimizer:
        return OPTIMIZERS[self.config.optimizer]

    @cached_property
    def transform(self) -> optax.GradientTransformation:
        """The optimiser's transformation of gradients to updates."""
        return make_optimizer(self.config)

    def batches(self, examples: Sequence[Example], seed: int, epochs: int | None = None) -> Batches:
        """The steps of a dataset, packed for this model on this mesh.

        Args:
            examples: the rows.
            seed: of their order.
            epochs: default the recipe's.

        Raises:
            InputError: no row can be trained on.
        """
        config = self.config
        shape = BatchShape(
            config.batch_size,
            config.micro_batch_size,
            config.max_length,
            self.cfg.hidden_size,
            1 if self.mesh is None else self.mesh.num_shards,
        )
        epochs = config.epochs if epochs is None else epochs
        return Batches(examples, shape, self.objective.streams, seed=seed, epochs=epochs)

    def abstract_trainable(self) -> Tree:
        """Shapes of what is trained, float32."""
        lora = self.lora
        if lora is None:
            return abstract_params(self.cfg, jnp.dtype(jnp.float32))
        return jax.eval_shape(lambda: init_adapter(self.cfg, lora, jax.random.key(0)))


def lora_config(config: TrainingConfig) -> LoraConfig:
    """The adapter's shape as the recipe has it."""
    return LoraConfig(
        config.lora_r,
        config.lora_alpha,
        config.lora_dropout,
        tuple(config.lora_targets),
        config.lora_rslora,
    )
