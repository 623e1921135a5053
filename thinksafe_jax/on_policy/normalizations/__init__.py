"""What every token of a rollout counts for: one file for each `on_policy.loss`.

Every file defines NORMALIZATION, a function of `(tokens, max_new_tokens)`: how long a rollout is
and could have been -> (weight of each of its tokens, what it adds to the denominator of the step).
"""

from collections.abc import Callable

from thinksafe_jax.variants import Variants

Normalization = Callable[[int, int], tuple[float, float]]
NORMALIZATIONS: Variants[Normalization] = Variants(__name__, "NORMALIZATION", "loss")
