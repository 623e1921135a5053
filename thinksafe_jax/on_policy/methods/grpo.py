"""GRPO with a guard's reward (arXiv 2402.03300; the paper's baseline, section F).

A step draws a group of rollouts for each prompt, rewards every one, and raises the log-probability
of those above their group's mean. One optimiser step is taken for each set of rollouts, so the
ratio to the policy that sampled is 1 and PPO's clipping never acts: the policy gradient is
cross-entropy with signed weights, beside a divergence from the untrained model (`training.kl`,
weight `training.kl_weight`).
"""

from collections.abc import Sequence

import numpy as np

from thinksafe_jax.config import Recipe, RewardTerm
from thinksafe_jax.on_policy.advantages import ADVANTAGES
from thinksafe_jax.on_policy.methods import ReferenceKind, Taught, TokenFacts, weigh
from thinksafe_jax.on_policy.normalizations import NORMALIZATIONS
from thinksafe_jax.on_policy.rewards import is_for, reward_function, rewards_of
from thinksafe_jax.on_policy.rollouts import Rollout, groups
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import Stream

_GUARD_REWARDS = ("guard-safe", "not-refused")  # these read the verdict


class Grpo:
    """Rewards to advantages to signed weights, and the divergence from the base."""

    needs_top = False
    tempered = True
    reference: ReferenceKind | None = "base"

    def __init__(self, recipe: Recipe, tokenizer: ChatTokenizer):
        del tokenizer
        self._cfg = cfg = recipe.on_policy
        self._max_new_tokens = cfg.sampling.max_new_tokens
        for term in cfg.rewards:
            reward_function(term.name)  # refused before anything is sampled
        # one's own reward may look at the verdict as well
        self.needs_verdicts = any(t.name in _GUARD_REWARDS or ":" in t.name for t in cfg.rewards)

    def reference_prompt(self, rollout: Rollout) -> Sequence[int]:
        """What the student read."""
        return rollout.prompt_ids

    def teach(self, rollouts: Sequence[Rollout], facts: Sequence[TokenFacts]) -> Taught:
        """Streams `pg` and `kl`; a rollout without a reward is in neither, nor in a denominator."""
        del facts
        cfg = self._cfg
        table = rewards_of(cfg.rewards, rollouts)
        place = {rollout.name: n for n, rollout in enumerate(rollouts)}
        advantages: dict[int, float] = {}
        flat = judged_groups = 0
        for group in groups(rollouts):
            indices = [place[r.name] for r in group if self._counts(table, place[r.name], r)]
            if len(indices) < 2:
                continue  # nothing to compare with
            judged_groups += 1
            values = np.array([[terms[n] for n in indices] for terms in table], np.float64)
            compared = values if cfg.rewards_apart else values.sum(axis=0, keepdims=True)
            spread = np.ptp(compared, axis=1).max()
            if is_flat := bool(spread < max(cfg.std_floor, 1e-9)):
                flat += 1
            if not (is_flat and cfg.flat_groups == "drop"):
                advantages |= dict(zip(indices, self._advantages(values).tolist(), strict=True))
        streams = [self._streams(rollout, advantages.get(n)) for n, rollout in enumerate(rollouts)]
        metrics = _means(cfg.rewards, table, rollouts)
        metrics |= {
            "flat_groups": flat / judged_groups if judged_groups else 0.0,
            "unrewarded": sum(_total(table, n) is None for n in range(len(rollouts)))
            / len(rollouts),
        }
        return Taught(streams, metrics)

    def _counts(self, table: list[list[float | None]], index: int, rollout: Rollout) -> bool:
        dropped = self._cfg.truncated == "drop" and not rollout.ended
        return _total(table, index) is not None and not dropped

    def _advantages(self, values: np.ndarray) -> np.ndarray:
        """Advantages `[G]` from weighted rewards `[terms, G]`."""
        cfg = self._cfg
        advantage = ADVANTAGES[cfg.advantage]
        if cfg.rewards_apart:
            return np.sum([advantage(term, cfg.std_floor) for term in values], axis=0)
        return advantage(values.sum(axis=0), cfg.std_floor)

    def _streams(self, rollout: Rollout, advantage: float | None) -> dict[str, Stream]:
        if advantage is None or not len(rollout.token_ids):
            return {"pg": weigh(rollout, 0.0, 0.0), "kl": weigh(rollout, 0.0, 0.0)}
        normalization = NORMALIZATIONS[self._cfg.loss]
        weight, count = normalization(len(rollout.token_ids), self._max_new_tokens)
        return {
            "pg": weigh(rollout, advantage * weight, count),
            "kl": weigh(rollout, weight, count),
        }


def _total(table: list[list[float | None]], index: int) -> float | None:
    """The reward of a rollout; None where one of its terms has none."""
    values = [terms[index] for terms in table]
    return None if None in values else float(sum(v for v in values if v is not None))


def _means(
    terms: Sequence[RewardTerm], table: list[list[float | None]], rollouts: Sequence[Rollout]
) -> dict[str, float]:
    """The mean of each reward over the rollouts that have one, and of their sum."""
    means = {}
    for term, values in zip(terms, table, strict=True):
        asked = (v for v, r in zip(values, rollouts, strict=True) if is_for(term, r.prompt))
        known = [value for value in asked if value is not None]
        name = " ".join(["reward", term.name, *filter(None, (term.label, term.stratum))])
        means[name] = float(np.mean(known)) if known else float("nan")
    totals = [_total(table, n) for n in range(len(table[0]))]
    known = [value for value in totals if value is not None]
    return {"reward": float(np.mean(known)) if known else float("nan"), **means}


METHOD = Grpo
