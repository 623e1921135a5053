"""KL(p_θ || p_ref): keeps away from what the reference would not say (OPD, paper F.4)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def reverse_kl(
    log_p: Float[Array, "... V"],
    log_ref: Float[Array, "... V"],
    is_target: Bool[Array, "... V"] | None = None,
) -> Float[Array, "..."]:
    """The divergence in nats; `log_p` of the model in training, `log_ref` of the reference."""
    return jnp.sum(jnp.exp(log_p) * (log_p - log_ref), axis=-1)


DIVERGENCE = reverse_kl
