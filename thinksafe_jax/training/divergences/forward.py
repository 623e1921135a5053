"""KL(p_ref || p_θ), the paper's (section 4): keeps all that the reference may say."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def forward_kl(
    log_p: Float[Array, "... V"],
    log_ref: Float[Array, "... V"],
    is_target: Bool[Array, "... V"] | None = None,
    top_k: int = 0,
) -> Float[Array, "..."]:
    """The divergence in nats.

    Args:
        log_p: log-probabilities of the model in training.
        log_ref: those of the reference.
        is_target: not looked at: this is no estimate from a sampled word.
        top_k: above 0, over the reference's k likeliest words, all others counted as one word: at
            most the full divergence, and zero only where the k probabilities agree.
    """
    if not top_k:
        return jnp.sum(jnp.exp(log_ref) * (log_ref - log_p), axis=-1)
    kth = jax.lax.top_k(log_ref, min(top_k, log_ref.shape[-1]))[0][..., -1:]
    top = log_ref >= kth
    inside = jnp.sum(jnp.where(top, jnp.exp(log_ref) * (log_ref - log_p), 0.0), axis=-1)

    def log_rest(logs: jax.Array) -> jax.Array:  # -80, not -inf: its gradient must stay finite
        return jax.nn.logsumexp(jnp.where(top, -80.0, logs), axis=-1)

    rest = log_rest(log_ref)
    return inside + jnp.exp(rest) * (rest - log_rest(log_p))


DIVERGENCE = forward_kl
