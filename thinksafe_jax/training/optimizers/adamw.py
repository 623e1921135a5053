"""AdamW with the schedule of the paper, as transformers has them (paper.md 1.4)."""

from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import optax

from thinksafe_jax.config import TrainingConfig

Tree = Any  # nested dict of arrays


class AdamW:
    """Clip by global norm, then AdamW (0.9, `beta2`, 1e-8); warm-up, then cosine."""

    def transform(self, config: TrainingConfig) -> optax.GradientTransformation:
        """Weight decay leaves norms and biases alone, as transformers does."""
        return optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.adamw(
                1.0, 0.9, config.beta2, 1e-8, weight_decay=config.weight_decay, mask=_decayed
            ),
        )

    def learning_rate(self, config: TrainingConfig, step: jax.Array, total_steps: int) -> jax.Array:
        """Linear warm-up from zero, then cosine to zero (HF `get_cosine_schedule_with_warmup`).

        Step 0 of a run with a warm-up has rate 0, as it has there.
        """
        warmup = warmup_steps(config, total_steps)
        now = step.astype(jnp.float32)
        rising = now / max(1, warmup)
        progress = (now - warmup) / max(1, total_steps - warmup)
        falling = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return config.learning_rate * jnp.where(step < warmup, rising, falling)


OPTIMIZER = AdamW()


def warmup_steps(config: TrainingConfig, total_steps: int) -> int:
    """Steps of linear warm-up, rounded up as transformers does."""
    return ceil(config.warmup_ratio * total_steps)


def _decayed(tree: Tree) -> Tree:
    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return name != "bias" and not name.endswith("norm")

    return jax.tree_util.tree_map_with_path(decays, tree)
