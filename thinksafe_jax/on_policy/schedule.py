"""Which prompts a step asks: a function of the seed and the step's number alone."""

from collections.abc import Sequence

import numpy as np

from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError


class Schedule:
    """Prompts of each step, every one once in an epoch.

    Args:
        prompts: all of them.
        per_step: prompts that a step asks; the last step of an epoch may have fewer.
        seed: of the order.
        epochs: how often each prompt is asked, unless `steps` says where to end.
        steps: optimiser steps of the run; None is `epochs`.

    Raises:
        InputError: there are no prompts.
    """

    def __init__(
        self, prompts: Sequence[Prompt], per_step: int, *, seed: int, epochs: int, steps: int | None
    ):
        if not prompts:
            raise InputError("no prompt is left to ask: see synthesis.prompts and synthesis.limit")
        self._prompts, self._per_step, self._seed = list(prompts), per_step, seed % 2**32
        self.steps_per_epoch = -(-len(self._prompts) // per_step)
        self.num_steps = epochs * self.steps_per_epoch if steps is None else steps
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __getitem__(self, step: int) -> list[Prompt]:
        """The prompts of step number `step`, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch[0]:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
            self._epoch = epoch, order
        first = index * self._per_step
        return [self._prompts[n] for n in self._epoch[1][first : first + self._per_step]]
