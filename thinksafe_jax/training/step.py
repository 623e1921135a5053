"""One optimiser step: accumulate over true denominators, clip, AdamW, skip what is not finite."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import (
    LoraConfig,
    ModelConfig,
    abstract_params,
    forward,
    head_kernel,
    init_adapter,
)
from thinksafe_jax.training.batches import Batch
from thinksafe_jax.training.losses import chunked_loss, default_chunk, divergence_of
from thinksafe_jax.training.mesh import Placement
from thinksafe_jax.training.optimizer import learning_rate, make_optimizer

Tree = Any  # nested dict of arrays


class TrainState(NamedTuple):
    """All that changes in a step; the arrays that a checkpoint holds."""

    trainable: Tree  # float32 adapter, or float32 parameters in full fine-tuning
    opt_state: Tree
    step: jax.Array  # i32 scalar: steps taken, skipped ones included


class Sums(NamedTuple):
    """What a step adds up over its forward passes; the weights are the true denominators."""

    loss: jax.Array
    cross_entropy: jax.Array
    kl: jax.Array
    weight: jax.Array
    kl_weight: jax.Array  # the part of `weight` that is on rows with KL
    tokens: jax.Array  # i32: targets


class Metrics(NamedTuple):
    """Scalars of one step."""

    loss: jax.Array  # nats a target, over the whole step
    cross_entropy: jax.Array  # over the rows that have it; NaN where none has
    kl: jax.Array  # likewise
    tokens: jax.Array  # response tokens
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array
    finite: jax.Array  # bool; where False the step changed nothing but the step number


StepFn = Callable[[TrainState, Tree, Batch, jax.Array], tuple[TrainState, Metrics]]
# (trainable, frozen, one pass, key or None) -> (loss, sums)
LossFn = Callable[[Tree, Tree, Batch, jax.Array | None], tuple[jax.Array, Sums]]
# (trainable, frozen, batch, key) -> (sums, sum of gradients)
GradientFn = Callable[[Tree, Tree, Batch, jax.Array], tuple[Sums, Tree]]


def init_state(trainable: Tree, config: TrainingConfig) -> TrainState:
    """The state before the first step."""
    return TrainState(trainable, make_optimizer(config).init(trainable), jnp.int32(0))


def make_loss(
    model_cfg: ModelConfig,
    config: TrainingConfig,
    lora: LoraConfig | None,
    placement: Placement | None = None,
) -> LossFn:
    """The loss of one forward pass, summed over its targets; dropout only where a key is given."""
    where, ways, gather = {}, 1, lambda params: params
    if placement is not None:
        where = {"attention": placement.attention, "constrain": placement.constrain}
        ways, gather = placement.num_shards, placement.gather_vocabulary
    divergence = divergence_of(config.kl, config.kl_top_k)

    def states(params: Tree, one: Batch, **more: Any) -> jax.Array:
        arrays = (one.tokens, one.positions, one.segments)
        return forward(params, model_cfg, *arrays, **where, **more)

    def loss_sum(
        trainable: Tree, frozen: Tree, one: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, Sums]:
        params, adapter = (trainable, None) if lora is None else (frozen, trainable)
        params = gather(params)
        key = key if lora is not None and lora.dropout > 0 else None
        hidden = states(
            params, one, adapter=adapter, lora=lora, dropout_key=key, remat=config.remat
        )
        # as many positions at a time on each device as on one alone
        chunk = ways * default_chunk(one.tokens.size // ways, model_cfg.vocab_size)
        more, weights, kl_weight = {}, one.weights, jnp.float32(0)
        if config.objective == "ce+kl":
            near = jnp.where(one.keep_near, one.weights, 0.0)
            weights, kl_weight = one.weights - near, jnp.sum(near)
            # the same weights with the adapter off
            reference = _where_asked(one.keep_near, partial(states, params, one))
            more = {"reference": reference, "divergence": divergence}
            more |= {"kl_weights": config.kl_weight * near}
        kernel = head_kernel(params, model_cfg)
        sums = chunked_loss(hidden, kernel, one.targets, weights, chunk=chunk, **more)
        tokens = jnp.count_nonzero(one.weights).astype(jnp.int32)
        return sums.loss, Sums(*sums, jnp.sum(one.weights), kl_weight, tokens)

    return loss_sum


def _where_asked(asked: jax.Array, run: Callable[[], jax.Array]) -> jax.Array:
    """`run()`, or zeros of its shape where nothing is asked."""
    shape = jax.eval_shape(run)
    return jax.lax.cond(jnp.any(asked), run, lambda: jnp.zeros(shape.shape, shape.dtype))


def make_gradient(
    model_cfg: ModelConfig,
    config: TrainingConfig,
    lora: LoraConfig | None,
    placement: Placement | None = None,
) -> GradientFn:
    """The function that sums loss and gradient over the forward passes of a step.

    Sums, not means of means: with uneven masks those would weigh tokens by the pass they are in
    (paper.md D28, D29). With `lora` None the parameters themselves are differentiated.
    """
    loss = make_loss(model_cfg, config, lora, placement)
    differentiate = jax.value_and_grad(loss, has_aux=True)

    def gradient(trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array) -> tuple[Sums, Tree]:
        def one_pass(index: jax.Array) -> tuple[Sums, Tree]:
            own = jax.random.fold_in(key, index)
            (_, sums), grads = differentiate(trainable, frozen, pass_of(batch, index), own)
            return sums, grads

        return _over_passes(one_pass, batch, (zero_sums(), jax.tree.map(jnp.zeros_like, trainable)))

    return gradient


def make_heldout(
    model_cfg: ModelConfig,
    config: TrainingConfig,
    lora: LoraConfig | None,
    placement: Placement | None = None,
) -> Callable[[Tree, Tree, Batch], Sums]:
    """The compiled function that sums the loss of a batch, without dropout or gradient."""
    loss = make_loss(model_cfg, config, lora, placement)

    def heldout(trainable: Tree, frozen: Tree, batch: Batch) -> Sums:
        def one_pass(index: jax.Array) -> Sums:
            return loss(trainable, frozen, pass_of(batch, index), None)[1]

        return _over_passes(one_pass, batch, zero_sums())

    return jax.jit(heldout)


def zero_sums() -> Sums:
    """The sums before the first pass."""
    return Sums(*(jnp.float32(0) for _ in range(5)), tokens=jnp.int32(0))


def pass_of(batch: Batch, index: jax.Array) -> Batch:
    """One forward pass of a step's arrays."""
    arrays = (jax.lax.dynamic_index_in_dim(x, index, keepdims=False) for x in batch[:-1])
    return Batch(*arrays, passes=1)


def _over_passes(one_pass: Callable[[jax.Array], Any], batch: Batch, start: Any) -> Any:
    """The sum over the passes in use, one after the other."""
    if batch.tokens.shape[0] == 1:
        return one_pass(jnp.int32(0))
    return jax.lax.fori_loop(
        jnp.int32(0),
        jnp.asarray(batch.passes),
        lambda index, sums: jax.tree.map(jnp.add, sums, one_pass(index)),
        start,
    )


def make_step(
    model_cfg: ModelConfig,
    config: TrainingConfig,
    lora: LoraConfig | None,
    total_steps: int,
    placement: Placement | None = None,
) -> StepFn:
    """The compiled step: `step(state, frozen, batch, key) -> (state, metrics)`.

    Args:
        model_cfg: architecture.
        config: optimiser and memory settings.
        lora: the adapter's shape; None trains the parameters themselves.
        total_steps: length of the learning-rate schedule.
        placement: on a mesh; default one device.

    Returns:
        A jitted function that donates its state. `frozen` is the base for LoRA, None without;
        `key` is the run's dropout key, folded with step and pass, so a resumed run draws the same.
    """
    gradient = make_gradient(model_cfg, config, lora, placement)

    def train_step(
        state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        sums, grads = gradient(state.trainable, frozen, batch, jax.random.fold_in(key, state.step))
        return _updated(state, sums, grads, config, total_steps)

    if placement is None:
        return jax.jit(train_step, donate_argnums=0)
    # results lie as the arguments do, or the state could not be donated
    lies = placement.trainable(lora)
    shapes = abstract_trainable(model_cfg, lora)
    where: Any = placement.replicated
    out = TrainState(lies, placement.opt_state(shapes, config, lora), where)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(out, where))


def _updated(
    state: TrainState, sums: Sums, grads: Tree, config: TrainingConfig, total_steps: int
) -> tuple[TrainState, Metrics]:
    """The state after a step with these sums, unchanged where they are not finite."""
    grads = jax.tree.map(lambda g: g / sums.weight, grads)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(norm)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its integer count
        updates, opt_state = make_optimizer(config).update(grads, state.opt_state, state.trainable)
    rate = learning_rate(config, state.step, total_steps)
    trainable = jax.tree.map(lambda p, u: p + rate * u, state.trainable, updates)

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite, new, old)

    new_state = TrainState(
        jax.tree.map(keep, trainable, state.trainable),
        jax.tree.map(keep, opt_state, state.opt_state),
        state.step + 1,
    )
    metrics = Metrics(
        sums.loss / sums.weight,
        sums.cross_entropy / (sums.weight - sums.kl_weight),
        sums.kl / (config.kl_weight * sums.kl_weight),
        sums.tokens,
        norm,
        rate,
        finite,
    )
    return new_state, metrics


def abstract_trainable(model_cfg: ModelConfig, lora: LoraConfig | None) -> Tree:
    """Shapes of what is trained, float32."""
    if lora is None:
        return abstract_params(model_cfg, jnp.dtype(jnp.float32))
    return jax.eval_shape(lambda: init_adapter(model_cfg, lora, jax.random.key(0)))
