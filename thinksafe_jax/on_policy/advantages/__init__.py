"""From the rewards of a group to advantages: one file for each `on_policy.advantage`.

Every file defines ADVANTAGE, a function of `(rewards, std_floor)`: float64 `[G]`, the rewards of
the rollouts of one prompt that have one, two or more -> float64 `[G]`.
"""

from collections.abc import Callable

import numpy as np

from thinksafe_jax.variants import Variants

Advantage = Callable[[np.ndarray, float], np.ndarray]
ADVANTAGES: Variants[Advantage] = Variants(__name__, "ADVANTAGE", "advantage")
