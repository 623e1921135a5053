"""How far two distributions over the vocabulary are apart: one file for each `training.kl`.

Every file defines DIVERGENCE, a function of `(log_p, log_ref, is_target)`: the log-probabilities of
the model in training and of its reference, float32 `[..., V]`, and which word was sampled or is
taught, bool `[..., V]`, which only estimates look at -> `[...]` in nats.
"""

from collections.abc import Callable
from functools import partial

import jax

from thinksafe_jax.variants import Variants

Divergence = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
DIVERGENCES: Variants[Callable[..., jax.Array]] = Variants(__name__, "DIVERGENCE", "divergence")


def make_divergence(name: str, top_k: int = 0) -> Divergence:
    """The divergence of a recipe.

    Args:
        name: `training.kl`.
        top_k: `training.kl_top_k`: above 0, of forward divergences, how many of the reference's
            likeliest words are told apart.

    Raises:
        ConfigError: no divergence of that name.
    """
    divergence = DIVERGENCES[name]
    return partial(divergence, top_k=top_k) if top_k else divergence
