"""(r - mean) / std over the group (GRPO, arXiv 2402.03300; the paper's baseline, section F)."""

import numpy as np

_EPSILON = 1e-4  # TRL's


def grpo(rewards: np.ndarray, std_floor: float) -> np.ndarray:
    """Advantages `[G]`, with the unbiased standard deviation, as TRL has it.

    Args:
        std_floor: a smaller deviation counts as this: rewards of a guard that hardly differ are
            noise, which a small deviation would blow up.
    """
    deviation = max(float(rewards.std(ddof=1)), std_floor)
    return (rewards - rewards.mean()) / (deviation + _EPSILON)


ADVANTAGE = grpo
