"""What every compiled function of training is made from."""

import logging
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
from thinksafe_jax.training.model_pass import HEADS
from thinksafe_jax.training.objectives import Objective, make_objective
from thinksafe_jax.training.optimizers import OPTIMIZERS, Optimizer, make_optimizer

_log = logging.getLogger(__name__)
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
        config, shards = self.config, (1, 1)
        if self.mesh is not None:
            shards = self.mesh.num_shards, self.mesh.sequence_shards
        shape = BatchShape(
            config.batch_size,
            config.micro_batch_size,
            config.max_length,
            self.cfg.hidden_size,
            *shards,
        )
        epochs = config.epochs if epochs is None else epochs
        objective, context = self.objective, self.cfg.max_position_embeddings
        if long := sum(context < len(example) <= config.max_length for example in examples):
            _log.warning(
                "%d of %d rows are longer than the model's context of %d tokens: it is trained at "
                "positions that it has never seen; training.max_length=%d leaves them out",
                long, len(examples), context, context,
            )  # fmt: skip
        return Batches(
            examples,
            shape,
            objective.streams,
            seed=seed,
            epochs=epochs,
            rows_of=objective.rows,
            rows_of_example=objective.rows_of_example,
        )

    def abstract_trainable(self) -> Tree:
        """Shapes of what is trained, float32."""
        lora, key = self.lora, jax.random.key(0)
        if lora is None:
            trainable = abstract_params(self.cfg, jnp.dtype(jnp.float32))
        else:
            trainable = jax.eval_shape(lambda: init_adapter(self.cfg, lora, key))
        return jax.eval_shape(lambda tree: self.with_heads(tree, key), trainable)

    def with_heads(self, trainable: Tree, key: jax.Array) -> Tree:
        """The adapter or the parameters, and beside them the heads of the objective, if any.

        Args:
            key: of their first values, uniform within 1 / sqrt(D) of 0 as `torch.nn.Linear` has it.
        """
        names, width = self.objective.heads, self.cfg.hidden_size
        if not names:
            return trainable
        key = jax.random.fold_in(key, len(names))  # not the adapter's
        values = jax.random.uniform(key, (len(names), width + 1), jnp.float32, -1.0, 1.0)
        values = values * width**-0.5
        heads = {
            name: {"kernel": values[n, :width], "bias": values[n, width]}
            for n, name in enumerate(names)
        }
        return {**trainable, HEADS: heads}

    def without_heads(self, trainable: Tree) -> Tree:
        """What is exported of what was trained."""
        return {name: tree for name, tree in trainable.items() if name != HEADS}

    def trainable_shardings(self) -> Tree:
        """Shardings of what is trained, on the setup's mesh."""
        assert self.mesh is not None
        shardings, replicated = self.mesh.trainable(self.lora), self.mesh.replicated
        if not self.objective.heads:
            return shardings
        head = {"kernel": replicated, "bias": replicated}
        return {**shardings, HEADS: dict.fromkeys(self.objective.heads, head)}


def lora_config(config: TrainingConfig) -> LoraConfig:
    """The adapter's shape as the recipe has it."""
    return LoraConfig(
        config.lora_r,
        config.lora_alpha,
        config.lora_dropout,
        tuple(config.lora_targets),
        config.lora_rslora,
    )


def place_beside(params: Tree) -> Any:
    """Where what every device holds belongs, beside parameters that no training mesh laid out."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", jax.local_devices()[0])
    named = isinstance(sharding, jax.NamedSharding)
    return jax.NamedSharding(sharding.mesh, jax.P()) if named else sharding
