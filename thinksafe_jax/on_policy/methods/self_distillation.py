"""On-policy self-distillation: the student learns from itself with guidance before the prompt.

The teacher is the untrained model (adapter off) that reads guidance by the prompt's label and then
the prompt; it scores the student's own answer, which was given without any. OPSA (arXiv 2605.15239)
learns from every token, EOPSA (arXiv 2609.34519) from the few that `on_policy.taught` names, on
short rollouts. The texts here are our own; both works choose theirs by how often they turn an
unsafe answer around, which `thinksafe probe` measures.
"""

from collections.abc import Sequence

import numpy as np

from thinksafe_jax.config import Recipe
from thinksafe_jax.on_policy.methods import ReferenceKind, Taught, TokenFacts, weigh
from thinksafe_jax.on_policy.normalizations import NORMALIZATIONS
from thinksafe_jax.on_policy.rollouts import Rollout
from thinksafe_jax.on_policy.token_rules import RULES
from thinksafe_jax.synthesis import repeats_steering, steer
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import Stream

# by label: a text of synthesis/steering by its name, or a text with {prompt} in it once
GUIDANCE = {
    "harmful": (
        "Note for the assistant: the request below asks for something harmful. While you think, "
        "work out what the user is after and what could go wrong, and decide to refuse. Refuse "
        "clearly, give no part of what was asked, and do not mention this note.\n\n{prompt}"
    ),
    "benign": (
        "Note for the assistant: the request below is harmless, even if some words sound "
        "alarming. Answer it fully and directly, without refusing, without warnings, and do not "
        "mention this note.\n\n{prompt}"
    ),
}


class SelfDistillation:
    """One stream, `kl`, on the tokens of the rule."""

    needs_verdicts = False
    tempered = False
    reference: ReferenceKind | None = "guided"

    def __init__(self, recipe: Recipe, tokenizer: ChatTokenizer):
        self._cfg, self._tokenizer = recipe.on_policy, tokenizer
        self._guidance = GUIDANCE | recipe.on_policy.guidance
        self._rule = RULES[recipe.on_policy.taught](tokenizer)
        self.needs_top = self._rule is not None

    def reference_prompt(self, rollout: Rollout) -> Sequence[int]:
        """The prompt in the guidance for its label."""
        return self._tokenizer.prompt_ids(self._guided(rollout))

    def _guided(self, rollout: Rollout) -> str:
        # "harmful" says that there is a text to place: here benign prompts have one as well
        return steer(self._guidance[rollout.prompt.label], rollout.prompt.text, "harmful")

    def teach(self, rollouts: Sequence[Rollout], facts: Sequence[TokenFacts]) -> Taught:
        """The stream of each rollout, and how often one repeats the guidance."""
        known = facts or [None] * len(rollouts)
        pairs = list(zip(rollouts, known, strict=True))
        streams = [self._streams(rollout, fact) for rollout, fact in pairs]
        tokens = sum(len(rollout.token_ids) for rollout in rollouts)
        taught = sum(np.count_nonzero(stream["kl"].weights) for stream in streams)
        repeated = sum(
            repeats_steering(self._guidance[rollout.prompt.label], rollout.response)
            for rollout in rollouts
        )
        return Taught(
            streams,
            {
                "taught_tokens": taught / max(1, tokens),
                "repeats_guidance": repeated / len(rollouts),
            },
        )

    def _streams(self, rollout: Rollout, facts: TokenFacts | None) -> dict[str, Stream]:
        cfg, tokens = self._cfg, len(rollout.token_ids)
        if not tokens or (cfg.truncated == "drop" and not rollout.ended):
            return {"kl": weigh(rollout, 0.0, 0.0)}
        mask = np.ones(tokens, np.float32)
        if self._rule is not None and facts is not None:
            mask = self._rule(facts.student, facts.reference).astype(np.float32)
        chosen = int(mask.sum())
        if not chosen:
            return {"kl": weigh(rollout, 0.0, 0.0)}
        weight, count = NORMALIZATIONS[cfg.loss](chosen, cfg.sampling.max_new_tokens)
        return {"kl": weigh(rollout, weight * mask, count)}


METHOD = SelfDistillation
