"""On-policy distillation: the divergence from a larger teacher on the student's own answers.

Paper sections 5.3 and F.4: the exact reverse KL over the whole vocabulary at every token of a
rollout (`training.kl: reverse`).
"""

from collections.abc import Sequence

from thinksafe_jax.config import Recipe
from thinksafe_jax.on_policy.methods import ReferenceKind, Taught, TokenFacts, weigh
from thinksafe_jax.on_policy.normalizations import NORMALIZATIONS
from thinksafe_jax.on_policy.rollouts import Rollout
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import Stream


class Opd:
    """One stream, `kl`, on every token."""

    needs_verdicts = False
    needs_top = False
    tempered = False
    reference: ReferenceKind | None = "teacher"

    def __init__(self, recipe: Recipe, tokenizer: ChatTokenizer):
        del tokenizer
        self._cfg = recipe.on_policy

    def reference_prompt(self, rollout: Rollout) -> Sequence[int]:
        """What the student read."""
        return rollout.prompt_ids

    def teach(self, rollouts: Sequence[Rollout], facts: Sequence[TokenFacts]) -> Taught:
        """The stream of each rollout; one that was cut counts as the recipe says."""
        del facts
        return Taught([self._streams(rollout) for rollout in rollouts])

    def _streams(self, rollout: Rollout) -> dict[str, Stream]:
        cfg, tokens = self._cfg, len(rollout.token_ids)
        if not tokens or (cfg.truncated == "drop" and not rollout.ended):
            return {"kl": weigh(rollout, 0.0, 0.0)}
        weight, count = NORMALIZATIONS[cfg.loss](tokens, cfg.sampling.max_new_tokens)
        return {"kl": weigh(rollout, weight, count)}


METHOD = Opd
