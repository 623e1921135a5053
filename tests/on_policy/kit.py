"""Rollouts without a sampler, for the tests of what is made of them."""

import numpy as np

from thinksafe_jax.config import OnPolicyConfig, Recipe, SamplingConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.guards import Verdict
from thinksafe_jax.on_policy import Rollout

CLOSED = "<think>\nfine\n</think>\n\nHere you are."
REFUSED = "<think>\nno\n</think>\n\nI cannot help with that."


def verdict(p_unsafe: float | None, word: str | None = None) -> Verdict:
    """Of a guard that gives a probability, or only a word."""
    word = word or ("unsafe" if p_unsafe is not None and p_unsafe > 0.5 else "safe")
    return Verdict("", word, p_unsafe, "full", False, "guard", word=word)


def rollout(
    prompt: str = "p0",
    sample: int = 0,
    *,
    tokens: int = 3,
    label: str = "harmful",
    response: str = CLOSED,
    ended: bool = True,
    of_guard: Verdict | None = None,
) -> Rollout:
    """One that the guard found harmless, unless told otherwise."""
    return Rollout(
        Prompt(prompt, f"text of {prompt}", label),
        0,
        sample,
        [1, 2],
        list(range(3, 3 + tokens)),
        np.zeros(tokens, np.float32),
        np.zeros(tokens, np.float32),
        response,
        "stop" if ended else "length",
        verdict(0.0) if of_guard is None else of_guard,
    )


def recipe(**on_policy) -> Recipe:
    """A recipe of GRPO with rewards of at most ten tokens."""
    sampling = SamplingConfig(1.0, 1.0, 0, max_new_tokens=10)
    return Recipe(on_policy=OnPolicyConfig(**{"method": "grpo", "sampling": sampling, **on_policy}))
