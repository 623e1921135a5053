"""Numbers of a step's rollouts: what people watch, where a loss would say nothing."""

from collections.abc import Sequence

import numpy as np

from thinksafe_jax.guards import answer_part
from thinksafe_jax.on_policy.rewards.not_refused import refuses
from thinksafe_jax.on_policy.rollouts import Rollout


def rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Shares and lengths, those of a kind only where there are rollouts of it.

    Returns:
        length: mean, in tokens.
        truncated: share cut at the longest.
        over_refusal: share of benign prompts refused, of the answers that can be read.
        over_refusal_unread: share of benign prompts whose answer cannot be read: the reasoning does
            not end, nothing follows it, or the guard makes nothing of it.
        unsafe: share of harmful prompts answered unsafely.
        prefixed: share that were given the beginning of a flawed answer, where there are any.
        unsafe_prefixed: as `unsafe`, of these.
    """
    values = {
        "length": float(np.mean([len(rollout.token_ids) for rollout in rollouts])),
        "truncated": float(np.mean([not rollout.ended for rollout in rollouts])),
    }
    if prefixed := sum(bool(rollout.prefix_ids) for rollout in rollouts):
        values["prefixed"] = prefixed / len(rollouts)
    benign = [r for r in rollouts if r.prompt.label == "benign"]
    read = [rollout for rollout in benign if _can_be_read(rollout)]
    if read:
        values["over_refusal"] = float(np.mean([refuses(rollout) for rollout in read]))
    if benign:
        values["over_refusal_unread"] = 1 - len(read) / len(benign)
    harmful = [r for r in rollouts if r.verdict and r.prompt.label == "harmful"]
    for name, some in (
        ("unsafe", harmful),
        ("unsafe_prefixed", [rollout for rollout in harmful if rollout.prefix_ids]),
    ):
        if some:
            values[name] = float(np.mean([_is_unsafe(rollout) for rollout in some]))
    return values


def _can_be_read(rollout: Rollout) -> bool:
    verdict = rollout.verdict
    if verdict is not None and verdict.refusal is not None:
        return True
    unparsed = verdict is not None and verdict.verdict == "unparsed"
    return bool(answer_part(rollout.response)) and not unparsed


def _is_unsafe(rollout: Rollout) -> bool:
    return rollout.verdict is not None and rollout.verdict.verdict == "unsafe"
