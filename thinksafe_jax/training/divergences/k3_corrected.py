"""The k3 estimate times the importance ratio, whose gradient is unbiased on policy.

The ratio to the policy that sampled is 1, but its gradient is not 0 (DeepSeek-V3.2, section 3.1;
TRL's `use_bias_correction_kl`). With d = log p_ref - log p_θ the gradient of both factors together
is that of log p_θ times

    (exp(d) - d - 1) + (1 - exp(d))  =  -d

and it is taken so: the two exp(d) cancel in exact numbers, not in float32 where d is large.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from thinksafe_jax.training.divergences.k3 import k3


def k3_corrected(
    log_p: Float[Array, "... V"],
    log_ref: Float[Array, "... V"],
    is_target: Bool[Array, "... V"],
) -> Float[Array, "..."]:
    """`k3` of the sampled word, with the gradient of its expectation; in nats."""
    still = jax.lax.stop_gradient
    chosen = jnp.sum(jnp.where(is_target, log_p, 0.0), axis=-1)
    difference = jnp.sum(jnp.where(is_target, log_ref - log_p, 0.0), axis=-1)
    value = still(k3(log_p, log_ref, is_target))
    return value - still(difference) * (chosen - still(chosen))


DIVERGENCE = k3_corrected
