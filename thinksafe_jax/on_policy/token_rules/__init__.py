"""Which tokens of a rollout are learnt from: one file for each `on_policy.taught`.

Every file defines RULE, a function of a tokenizer that gives the rule: from the likeliest token of
student and of teacher at each position, i32 `[T]` each, to bool `[T]`. What a rule knows of words
it looks up once, as a table over the ids: no text is made in a step.
"""

from collections.abc import Callable

import numpy as np

from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.variants import Variants

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
RULES: Variants[Callable[[ChatTokenizer], Rule | None]] = Variants(__name__, "RULE", "token rule")
