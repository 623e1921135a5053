"""How long hosts wait for each other: to join, for a sign of life, for progress, for storage."""

import os
from dataclasses import dataclass

from thinksafe_jax.errors import ConfigError

VARIABLES = {
    "start": "THINKSAFE_START_LIMIT",
    "silence": "THINKSAFE_SILENCE_LIMIT",
    "step": "THINKSAFE_STEP_LIMIT",
    "lag": "THINKSAFE_LAG_LIMIT",
}
_LEAST_SILENCE = 2  # below it a process that sends its sign each second is taken for dead


@dataclass(frozen=True)
class Limits:
    """How long is too long.

    Attributes:
        start: until all processes have joined.
        silence: without a sign of life of a process; its threads send one each second.
        step: without progress: a training step, a row, a batch of verdicts. Loading and compiling
            count as well. 0 switches it off.
        lag: until shared storage shows on one host what another has written.
    """

    start: float = 300.0
    silence: float = 60.0
    step: float = 1800.0
    lag: float = 60.0

    @staticmethod
    def from_environment(alone: bool) -> "Limits":
        """The defaults, or what THINKSAFE_START_LIMIT and its like say; alone, no step limit.

        Raises:
            ConfigError: one of them is no number of seconds, or would end every run.
        """
        limits = {"step": 0.0} if alone else {}
        for name, variable in VARIABLES.items():
            if text := os.environ.get(variable):
                try:
                    limits[name] = float(text)
                except ValueError:
                    raise ConfigError(f"{variable}={text}: expected seconds") from None
                least = _LEAST_SILENCE if name == "silence" else 0
                if not least <= limits[name] < 1e9:
                    raise ConfigError(f"{variable}={text}: expected seconds, {least} or more")
        return Limits(**limits)
