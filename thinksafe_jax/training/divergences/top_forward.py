"""KL(p_ref || p_θ) over the reference's likeliest words alone, both renormalised there (EOPSA).

arXiv 2609.34519: the teacher's 512 likeliest words, the divergence of a token cut at 10 nats. What
the student gives to all other words is not looked at, which `forward` with `kl_top_k` does.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_LARGEST = 10.0  # nats of one token


def top_forward_kl(
    log_p: Float[Array, "... V"],
    log_ref: Float[Array, "... V"],
    is_target: Bool[Array, "... V"] | None = None,
    top_k: int = 512,
) -> Float[Array, "..."]:
    """The divergence in nats, on the `top_k` likeliest words of the reference."""
    kth = jax.lax.top_k(log_ref, min(top_k, log_ref.shape[-1]))[0][..., -1:]
    top = log_ref >= kth

    def renormalised(logs: jax.Array) -> jax.Array:
        return logs - jax.nn.logsumexp(jnp.where(top, logs, -jnp.inf), axis=-1, keepdims=True)

    ours, theirs = renormalised(log_p), renormalised(log_ref)
    total = jnp.sum(jnp.where(top, jnp.exp(theirs) * (theirs - ours), 0.0), axis=-1)
    return jnp.clip(total, -_LARGEST, _LARGEST)


DIVERGENCE = top_forward_kl
