"""What a training step is called with, as shapes and shardings: nothing is allocated."""

from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import ModelConfig, abstract_params
from thinksafe_jax.training.batches import Batch
from thinksafe_jax.training.mesh import Placement
from thinksafe_jax.training.step import TrainState, Tree, abstract_trainable, init_state
from thinksafe_jax.training.trainer import lora_config


def abstract_arguments(
    cfg: ModelConfig,
    config: TrainingConfig,
    where: Placement,
    pass_shape: tuple[int, int],
    dtype: str,
) -> tuple[TrainState, Tree, Batch, Any]:
    """Arguments of `make_step`'s function, with two passes at least.

    Args:
        pass_shape: sequences and tokens of one forward pass, over all devices.
        dtype: of the frozen base.
    """
    lora = None if config.full_finetune else lora_config(config)
    trainable = shaped(abstract_trainable(cfg, lora), where.trainable(lora))
    fresh = jax.eval_shape(lambda tree: init_state(tree, config), trainable)
    opt_state = shaped(fresh.opt_state, where.opt_state(trainable, config, lora))
    state = TrainState(trainable, opt_state, _one(fresh.step, where.replicated))
    frozen = lora and shaped(abstract_params(cfg, jnp.dtype(dtype)), where.param_shardings())
    passes = max(2, -(-config.batch_size // pass_shape[0]))
    kinds = (jnp.int32,) * 4 + (jnp.float32, jnp.bool_)
    shape = (passes, *pass_shape)
    arrays = [jax.ShapeDtypeStruct(shape, kind, sharding=where.batch()) for kind in kinds]
    batch = Batch(*arrays, passes=_one(fresh.step, where.replicated))
    key = _one(jax.eval_shape(lambda: jax.random.key(0)), where.replicated)
    return state, frozen, batch, key


def shaped(tree: Tree, shardings: Tree) -> Tree:
    """The shapes of `tree` with shardings."""
    return jax.tree.map(_one, tree, shardings)


def _one(x: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
