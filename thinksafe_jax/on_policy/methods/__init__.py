"""From the rollouts of a step to what is learnt from them: one file for each `on_policy.method`.

Every file defines METHOD, a class made with the section and a tokenizer. The loop knows no method,
and neither does the trainer. A method says what must be known of the rollouts (a verdict, what a
reference makes of them), and turns what is known into streams: weights of each token for

    pg    -log p, of either sign: a policy gradient on policy
    ce    -log p, not below 0
    kl    the divergence `training.kl` from the reference

each with what the rollout adds to the denominator of the whole optimiser step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from thinksafe_jax.config import Recipe
from thinksafe_jax.on_policy.rollouts import Rollout
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import Stream
from thinksafe_jax.variants import Variants

# the model with its adapter off, on the same tokens | itself, adapter off, behind another prompt |
# another model
ReferenceKind = Literal["base", "guided", "teacher"]


@dataclass(frozen=True, eq=False)
class TokenFacts:
    """What two models make of a rollout, a value for each of its tokens.

    Attributes:
        student, reference: i32 `[n]`: the likeliest token there; empty where nobody asked.
    """

    student: np.ndarray
    reference: np.ndarray


@dataclass(frozen=True)
class Taught:
    """What a method makes of a step.

    Attributes:
        streams: of each rollout, by name, over its tokens `[n]`; all zeros leaves it out.
        metrics: numbers for the log and the report.
    """

    streams: list[dict[str, Stream]]
    metrics: dict[str, float] = field(default_factory=dict)


class Method(Protocol):
    """What the loop asks of a method.

    Attributes:
        needs_verdicts: whether the guard is asked about the rollouts.
        reference: what the divergence is from; None without a `kl` stream.
        needs_top: whether the likeliest tokens must be known.
        tempered: whether the loss is at the temperature of the rollouts, as a policy gradient's
            must be; else it is that of the models themselves.
    """

    needs_verdicts: bool
    reference: ReferenceKind | None
    needs_top: bool
    tempered: bool

    def reference_prompt(self, rollout: Rollout) -> Sequence[int]:
        """The prompt that the reference reads before the answer, as token ids."""
        ...

    def teach(self, rollouts: Sequence[Rollout], facts: Sequence[TokenFacts]) -> Taught:
        """The streams of a step; `facts` are empty unless `needs_top`."""
        ...


METHODS: Variants[Callable[[Recipe, ChatTokenizer], Method]] = Variants(
    __name__, "METHOD", "method"
)


def make_method(recipe: Recipe, tokenizer: ChatTokenizer) -> Method:
    """The method of a recipe.

    Raises:
        ConfigError: none of that name, or a reward that is none.
    """
    return METHODS[recipe.on_policy.method](recipe, tokenizer)


def weigh(rollout: Rollout, weights: Any, count: float) -> Stream:
    """A stream over the tokens of a rollout: one weight for all of them, or one for each."""
    size = len(rollout.token_ids)
    return Stream(np.broadcast_to(np.asarray(weights, np.float32), (size,)).copy(), count)
