"""The mean of the forward and the reverse KL (OPSA, arXiv 2605.15239)."""

from jaxtyping import Array, Bool, Float

from thinksafe_jax.training.divergences.forward import forward_kl
from thinksafe_jax.training.divergences.reverse import reverse_kl


def symmetric_kl(
    log_p: Float[Array, "... V"],
    log_ref: Float[Array, "... V"],
    is_target: Bool[Array, "... V"] | None = None,
) -> Float[Array, "..."]:
    """The divergence in nats; `log_p` of the model in training, `log_ref` of the reference."""
    return 0.5 * (forward_kl(log_p, log_ref) + reverse_kl(log_p, log_ref))


DIVERGENCE = symmetric_kl
