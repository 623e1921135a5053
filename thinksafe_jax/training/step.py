"""One optimiser step: accumulate over true denominators, clip, AdamW, skip what is not finite."""

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import LoraConfig, ModelConfig, forward, head_kernel
from thinksafe_jax.training.batches import Batch
from thinksafe_jax.training.losses import chunked_cross_entropy

Tree = Any  # nested dict of arrays


class TrainState(NamedTuple):
    """All that changes in a step; the arrays that a checkpoint holds."""

    trainable: Tree  # float32 adapter, or float32 parameters in full fine-tuning
    opt_state: Tree
    step: jax.Array  # i32 scalar: steps taken, skipped ones included


class Metrics(NamedTuple):
    """Scalars of one step."""

    loss: jax.Array  # nats per response token, over the whole step
    tokens: jax.Array  # response tokens
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array
    finite: jax.Array  # bool; where False the step changed nothing but the step number


StepFn = Callable[[TrainState, Tree, Batch, jax.Array], tuple[TrainState, Metrics]]
# (trainable, frozen, batch, key) -> (sum of losses, response tokens, sum of gradients)
GradientFn = Callable[[Tree, Tree, Batch, jax.Array], tuple[jax.Array, jax.Array, Tree]]


def warmup_steps(config: TrainingConfig, total_steps: int) -> int:
    """Steps of linear warm-up, rounded up as transformers does."""
    return ceil(config.warmup_ratio * total_steps)


def learning_rate(config: TrainingConfig, step: jax.Array, total_steps: int) -> jax.Array:
    """Linear warm-up from zero, then cosine to zero (HF `get_cosine_schedule_with_warmup`).

    Step 0 of a run with a warm-up has rate 0, as it has there.
    """
    warmup = warmup_steps(config, total_steps)
    now = step.astype(jnp.float32)
    rising = now / max(1, warmup)
    progress = (now - warmup) / max(1, total_steps - warmup)
    falling = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return config.learning_rate * jnp.where(step < warmup, rising, falling)


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (0.9, 0.999, 1e-8) at rate -1; the step scales by the rate.

    Weight decay leaves norms and biases alone, as transformers does.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(1.0, 0.9, 0.999, 1e-8, weight_decay=config.weight_decay, mask=_decayed),
    )


def _decayed(tree: Tree) -> Tree:
    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return name != "bias" and not name.endswith("norm")

    return jax.tree_util.tree_map_with_path(decays, tree)


def init_state(trainable: Tree, config: TrainingConfig) -> TrainState:
    """The state before the first step."""
    return TrainState(trainable, make_optimizer(config).init(trainable), jnp.int32(0))


def make_gradient(
    model_cfg: ModelConfig, config: TrainingConfig, lora: LoraConfig | None
) -> GradientFn:
    """The function that sums loss and gradient over the forward passes of a step.

    Sums, not means of means: with uneven masks those would weigh tokens by the pass they are in
    (paper.md D28, D29). With `lora` None the parameters themselves are differentiated.
    """

    def loss_sum(
        trainable: Tree, frozen: Tree, one: Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        params, adapter = (trainable, None) if lora is None else (frozen, trainable)
        hidden = forward(
            params,
            model_cfg,
            one.tokens,
            one.positions,
            one.segments,
            adapter=adapter,
            lora=lora,
            dropout_key=key if lora is not None and lora.dropout > 0 else None,
            remat=config.remat,
        )
        flat = hidden.reshape(-1, hidden.shape[-1])
        kernel = head_kernel(params, model_cfg)
        return chunked_cross_entropy(flat, kernel, one.targets.ravel(), one.weights.ravel())

    differentiate = jax.value_and_grad(loss_sum, has_aux=True)

    def gradient(
        trainable: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Tree]:
        def one_pass(index: jax.Array) -> tuple[jax.Array, jax.Array, Tree]:
            arrays = (jax.lax.dynamic_index_in_dim(x, index, keepdims=False) for x in batch[:-1])
            one = Batch(*arrays, passes=1)
            own_key = jax.random.fold_in(key, index)
            (loss, weight), grads = differentiate(trainable, frozen, one, own_key)
            return loss, weight, grads

        if batch.tokens.shape[0] == 1:
            return one_pass(jnp.int32(0))
        start = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, trainable))
        return jax.lax.fori_loop(
            jnp.int32(0),
            jnp.asarray(batch.passes),
            lambda index, sums: jax.tree.map(jnp.add, sums, one_pass(index)),
            start,
        )

    return gradient


def make_step(
    model_cfg: ModelConfig, config: TrainingConfig, lora: LoraConfig | None, total_steps: int
) -> StepFn:
    """The compiled step: `step(state, frozen, batch, key) -> (state, metrics)`.

    Args:
        model_cfg: architecture.
        config: optimiser and memory settings.
        lora: the adapter's shape; None trains the parameters themselves.
        total_steps: length of the learning-rate schedule.

    Returns:
        A jitted function that donates its state. `frozen` is the base for LoRA, None without;
        `key` is the run's dropout key, folded with step and pass, so a resumed run draws the same.
    """
    optimizer = make_optimizer(config)
    gradient = make_gradient(model_cfg, config, lora)

    def train_step(
        state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        loss, tokens, grads = gradient(state.trainable, frozen, batch, key)
        grads = jax.tree.map(lambda g: g / tokens, grads)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its integer count
            updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        rate = learning_rate(config, state.step, total_steps)
        trainable = jax.tree.map(lambda p, u: p + rate * u, state.trainable, updates)

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(finite, new, old)

        new_state = TrainState(
            jax.tree.map(keep, trainable, state.trainable),
            jax.tree.map(keep, opt_state, state.opt_state),
            state.step + 1,
        )
        return new_state, Metrics(loss / tokens, tokens, norm, rate, finite)

    return jax.jit(train_step, donate_argnums=0)
