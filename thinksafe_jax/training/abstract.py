"""What a training step is called with, as shapes and shardings: nothing is allocated."""

from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.models import abstract_params
from thinksafe_jax.training.batches import Batch, Tokens
from thinksafe_jax.training.setup import TrainingSetup, Tree
from thinksafe_jax.training.step import TrainState, init_state, state_shardings


def abstract_arguments(
    setup: TrainingSetup, pass_shape: tuple[int, int], dtype: str
) -> tuple[TrainState, Tree, Batch, Any]:
    """Arguments of `make_step`'s function, with two passes at least.

    Args:
        setup: with a mesh.
        pass_shape: sequences and tokens of one forward pass, over all devices.
        dtype: of the frozen base.
    """
    mesh = setup.mesh
    assert mesh is not None
    trainable = setup.abstract_trainable()
    fresh = jax.eval_shape(lambda tree: init_state(tree, setup), trainable)
    state = shaped(fresh, state_shardings(setup))
    frozen = setup.lora and shaped(
        abstract_params(setup.cfg, jnp.dtype(dtype)), mesh.param_shardings()
    )
    passes = max(2, -(-setup.config.batch_size // pass_shape[0]))
    shape = (passes, *pass_shape)
    ids, weight = (
        jax.ShapeDtypeStruct(shape, kind, sharding=mesh.batch())
        for kind in (jnp.int32, jnp.float32)
    )
    objective = setup.objective
    streams, facts = (dict.fromkeys(x, weight) for x in (objective.stream_names, objective.facts))
    rows = Tokens(ids, ids, ids, ids, streams, facts)
    denominator, step = (
        jax.ShapeDtypeStruct((), kind, sharding=mesh.replicated)
        for kind in (jnp.float32, jnp.int32)
    )
    key = _with_sharding(jax.eval_shape(lambda: jax.random.key(0)), mesh.replicated)
    return state, frozen, Batch(rows, denominator, passes=step), key


def shaped(tree: Tree, shardings: Tree) -> Tree:
    """The shapes of `tree` with shardings."""
    return jax.tree.map(_with_sharding, tree, shardings)


def _with_sharding(x: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
