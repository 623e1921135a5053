"""1 for one closed pair of reasoning tags, else 0 (paper F; the authors' grpo_train.py)."""

from collections.abc import Sequence

from thinksafe_jax.on_policy.rollouts import Rollout
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN


def well_formed(rollouts: Sequence[Rollout]) -> list[float | None]:
    """Whether each opens its reasoning once and then closes it once.

    Where the template opens it (R1-Distill), the text of a response begins with that tag as well.
    """
    return [float(_is_well_formed(rollout)) for rollout in rollouts]


def _is_well_formed(rollout: Rollout) -> bool:
    before, closed, after = rollout.response.partition(THINK_CLOSE)
    once = bool(closed) and THINK_CLOSE not in after and THINK_OPEN not in after
    return once and before.count(THINK_OPEN) == 1


REWARD = well_formed
