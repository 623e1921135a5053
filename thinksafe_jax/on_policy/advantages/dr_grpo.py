"""r - mean over the group, not divided by its spread (Dr. GRPO, arXiv 2503.20783)."""

import numpy as np


def dr_grpo(rewards: np.ndarray, std_floor: float) -> np.ndarray:
    """Advantages `[G]`; `std_floor` is not looked at."""
    del std_floor
    return rewards - rewards.mean()


ADVANTAGE = dr_grpo
