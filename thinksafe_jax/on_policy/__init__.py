"""Rollouts and training in one loop: GRPO, on-policy distillation, self-distillation.

Methods, advantages, losses, rewards and token rules are folders of variants, a file each.
"""

from thinksafe_jax.on_policy.completion_reply import ServedModel
from thinksafe_jax.on_policy.loop import OnPolicySteps, StepParts, needs_guard
from thinksafe_jax.on_policy.methods import Method, make_method
from thinksafe_jax.on_policy.references import References
from thinksafe_jax.on_policy.rollouts import Rollout
from thinksafe_jax.on_policy.sampler import RolloutEngine, RolloutSampler
from thinksafe_jax.on_policy.served_engine import ServedEngine

__all__ = [
    "Method",
    "OnPolicySteps",
    "References",
    "Rollout",
    "RolloutEngine",
    "RolloutSampler",
    "ServedEngine",
    "ServedModel",
    "StepParts",
    "make_method",
    "needs_guard",
]
