"""One optimiser step: accumulate over true denominators, clip, update, skip what is not finite."""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thinksafe_jax.training.batches import Batch, Tokens
from thinksafe_jax.training.model_pass import ModelPass
from thinksafe_jax.training.objectives import Sums
from thinksafe_jax.training.setup import TrainingSetup, Tree


class TrainState(NamedTuple):
    """All that changes in a step; the arrays that a checkpoint holds."""

    trainable: Tree  # float32 adapter, or float32 parameters in full fine-tuning
    opt_state: Tree
    step: jax.Array  # i32 scalar: steps taken, skipped ones included


class Totals(NamedTuple):
    """What a step adds up over its forward passes, scalars."""

    loss: jax.Array  # f32, in nats
    tokens: jax.Array  # i32: targets with a weight
    objective: Sums  # the objective's own
    largest: Sums  # likewise, but of these it is the maximum that is kept


class Metrics(NamedTuple):
    """Scalars of one step."""

    loss: jax.Array  # nats, over the denominator of the whole step
    objective: dict[str, jax.Array]  # the objective's own, as cross_entropy
    tokens: jax.Array  # response tokens
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array
    finite: jax.Array  # bool; where False the step changed nothing but the step number


StepFn = Callable[[TrainState, Tree, Batch, jax.Array], tuple[TrainState, Metrics]]
# (trainable, frozen, one pass, the reference's head or None, key or None) -> (loss, totals)
LossFn = Callable[
    [Tree, Tree, Tokens, jax.Array | None, jax.Array | None], tuple[jax.Array, Totals]
]
# (trainable, frozen, batch, key) -> (totals, sum of gradients)
GradientFn = Callable[[Tree, Tree, Batch, jax.Array], tuple[Totals, Tree]]


def init_state(trainable: Tree, setup: TrainingSetup) -> TrainState:
    """The state before the first step."""
    return TrainState(trainable, setup.transform.init(trainable), jnp.int32(0))


def make_loss(setup: TrainingSetup) -> LossFn:
    """The loss of one forward pass, summed over its targets; dropout only where a key is given."""
    lora, mesh = setup.lora, setup.mesh

    def loss(
        trainable: Tree,
        frozen: Tree,
        rows: Tokens,
        head: jax.Array | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, Totals]:
        params, adapter = (trainable, None) if lora is None else (frozen, trainable)
        model = ModelPass(
            setup.cfg,
            params if mesh is None else mesh.gather_vocabulary(params),
            adapter,
            lora,
            rows,
            dropout_key=key if lora is not None and lora.dropout > 0 else None,
            remat=setup.config.remat,
            mesh=mesh,
            reference_head=head,
        )
        value, sums, largest = setup.objective.loss(model, rows)
        return value, Totals(value, _targets(rows), sums, largest)

    return loss


def _targets(rows: Tokens) -> jax.Array:
    """How many positions have a weight in any stream, i32."""
    weighted = reduce(jnp.logical_or, (weights != 0 for weights in rows.streams.values()))
    return jnp.count_nonzero(weighted).astype(jnp.int32)


def make_gradient(setup: TrainingSetup) -> GradientFn:
    """The function that sums loss and gradient over the forward passes of a step.

    Sums, not means of means: with uneven masks those would weigh tokens by the pass they are in
    (paper.md D28, D29).
    """
    differentiate = jax.value_and_grad(make_loss(setup), has_aux=True)

    def gradient(
        trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[Totals, Tree]:
        def run_pass(index: jax.Array) -> tuple[Totals, Tree]:
            dropout_key = jax.random.fold_in(key, index)
            (_, totals), grads = differentiate(
                trainable, frozen, pass_of(batch, index), batch.reference_head, dropout_key
            )
            return totals, grads

        def add(so_far: tuple[Totals, Tree], more: tuple[Totals, Tree]) -> tuple[Totals, Tree]:
            return _added(so_far[0], more[0]), jax.tree.map(jnp.add, so_far[1], more[1])

        return _over_passes(run_pass, batch, add)

    return gradient


def make_heldout(setup: TrainingSetup) -> Callable[[Tree, Tree, Batch], Totals]:
    """The compiled function that sums the loss of a batch, without dropout or gradient."""
    loss = make_loss(setup)

    def heldout(trainable: Tree, frozen: Tree, batch: Batch) -> Totals:
        def run_pass(index: jax.Array) -> Totals:
            return loss(trainable, frozen, pass_of(batch, index), batch.reference_head, None)[1]

        return _over_passes(run_pass, batch, _added)

    return jax.jit(heldout)


def pass_of(batch: Batch, index: jax.Array) -> Tokens:
    """One forward pass of a step's arrays: `[P, S, T]` -> `[S, T]`."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batch.rows
    )


def _added(so_far: Totals, more: Totals) -> Totals:
    """Totals of both; what only has a largest is never below 0."""
    sums = jax.tree.map(jnp.add, so_far, more)
    return sums._replace(largest=jax.tree.map(jnp.maximum, so_far.largest, more.largest))


def _over_passes(
    run_pass: Callable[[jax.Array], Any], batch: Batch, add: Callable[[Any, Any], Any]
) -> Any:
    """The sum over the passes in use, one after the other."""
    first = jnp.int32(0)
    if batch.rows.tokens.shape[0] == 1:
        return run_pass(first)
    shapes = jax.eval_shape(run_pass, first)
    return jax.lax.fori_loop(
        first,
        jnp.asarray(batch.passes),
        lambda index, sums: add(sums, run_pass(index)),
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    )


def make_step(setup: TrainingSetup, total_steps: int) -> StepFn:
    """The compiled step: `step(state, frozen, batch, key) -> (state, metrics)`.

    Args:
        setup: model, numbers and mesh.
        total_steps: length of the learning-rate schedule.

    Returns:
        A jitted function that donates its state. `frozen` is the base for LoRA, None without;
        `key` is the run's dropout key, folded with step and pass, so a resumed run draws the same.
    """
    gradient = make_gradient(setup)

    def train_step(
        state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        totals, grads = gradient(state.trainable, frozen, batch, step_key)
        return _updated(state, totals, grads, batch.denominator, setup, total_steps)

    if setup.mesh is None:
        return jax.jit(train_step, donate_argnums=0)
    # results lie as the arguments do, or the state could not be donated
    out: Any = (state_shardings(setup), setup.mesh.replicated)
    return jax.jit(train_step, donate_argnums=0, out_shardings=out)


def state_shardings(setup: TrainingSetup) -> TrainState:
    """Shardings of the state, on the setup's mesh."""
    mesh, trainable = setup.mesh, setup.trainable_shardings()
    assert mesh is not None
    opt_state = mesh.optimizer_shardings(setup.transform, setup.abstract_trainable(), trainable)
    step: Any = mesh.replicated
    return TrainState(trainable, opt_state, step)


def _updated(
    state: TrainState,
    totals: Totals,
    grads: Tree,
    denominator: jax.Array,
    setup: TrainingSetup,
    total_steps: int,
) -> tuple[TrainState, Metrics]:
    """The state after a step with these sums, unchanged where they are not finite."""
    grads = jax.tree.map(lambda g: g / denominator, grads)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
    finite = jnp.isfinite(totals.loss) & jnp.isfinite(norm)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its integer count
        updates, opt_state = setup.transform.update(grads, state.opt_state, state.trainable)
    rate = setup.optimizer.learning_rate(setup.config, state.step, total_steps)
    trainable = jax.tree.map(lambda p, u: p + rate * u, state.trainable, updates)

    def if_finite(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite, new, old)

    new_state = TrainState(
        jax.tree.map(if_finite, trainable, state.trainable),
        jax.tree.map(if_finite, opt_state, state.opt_state),
        state.step + 1,
    )
    metrics = Metrics(
        totals.loss / denominator,
        {**setup.objective.metrics(totals.objective), **totals.largest},
        totals.tokens,
        norm,
        rate,
        finite,
    )
    return new_state, metrics
