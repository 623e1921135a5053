"""P(safe) of the guard, on the prompt as the user wrote it and the whole response (paper F)."""

from collections.abc import Sequence

from thinksafe_jax.on_policy.rollouts import Rollout


def guard_safe(rollouts: Sequence[Rollout]) -> list[float | None]:
    """P(safe), 0 to 1; 1 or 0 by the verdict of a guard that gives no probability.

    None where the guard could not be read: an answer that nobody judged is neither good nor bad
    (paper.md D43).
    """
    return [_safe(rollout) for rollout in rollouts]


def _safe(rollout: Rollout) -> float | None:
    verdict = rollout.verdict
    if verdict is None or verdict.verdict not in ("safe", "unsafe"):
        return None
    if verdict.p_unsafe is not None:
        return 1.0 - verdict.p_unsafe
    return float(verdict.verdict == "safe")


REWARD = guard_safe
