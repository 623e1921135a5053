"""The k3 estimate of KL(p_θ || p_ref) from the sampled word, as TRL's GRPO computes it.

Its value is unbiased, its gradient is not: on policy, in expectation, it is that of the forward KL.
For parity with the paper's GRPO; the exact divergences cost as much here and have no such error.
(Schulman, "Approximating KL Divergence", 2020.)
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def k3(
    log_p: Float[Array, "... V"],
    log_ref: Float[Array, "... V"],
    is_target: Bool[Array, "... V"],
) -> Float[Array, "..."]:
    """exp(d) - d - 1 with d = log p_ref - log p_θ of the sampled word, in nats."""
    difference = jnp.sum(jnp.where(is_target, log_ref - log_p, 0.0), axis=-1)
    return jnp.exp(difference) - difference - 1.0


DIVERGENCE = k3
