"""Times single decode steps of an engine."""

import time
from collections.abc import Callable

import jax
import numpy as np

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.sampling import Engine
from thinksafe_jax.sampling.device import INSERT_ROWS
from thinksafe_jax.sampling.programs import Insertion
from thinksafe_jax.sampling.sampling_options import Options


def timed(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    run()
    return clock() - began


class Stepper:
    """Decode windows of an engine whose slots are all at the same position.

    Args:
        live: tokens in the cache of every slot.
    """

    def __init__(self, engine: Engine, live: int):
        self.engine, self.live, self.device = engine, live, engine._devices[0]
        allocator = engine._allocator(self.device)
        for slot in range(len(allocator.table)):
            assert allocator.reserve(slot, live + 2 * engine.config.window)
        self.table = allocator.table
        self.slots = np.arange(len(self.table), dtype=np.int32)

    def seconds(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Of one decode step, the mean of a window."""
        window = self.engine.config.window
        for first in range(0, len(self.table), INSERT_ROWS):
            self.device.insert(self._insertion(first))
        jax.block_until_ready(self.device.slots.remaining)
        return timed(self._decode, clock) / window

    def processor_seconds(self) -> float:
        """Of one decode step: of all cores, which other work on the machine hardly changes."""
        return self.seconds(time.process_time)

    def _decode(self) -> None:
        self.device.read(self.device.decode(self.table, self.slots))

    def _insertion(self, first: int) -> Insertion:
        """INSERT_ROWS slots from `first` on; those beyond the last are ignored."""
        ones, words = np.ones(INSERT_ROWS, np.int32), np.zeros((INSERT_ROWS, 3), np.uint32)
        slots = np.minimum(first + np.arange(INSERT_ROWS), len(self.table)).astype(np.int32)
        options = Options.of([SamplingConfig()] * INSERT_ROWS)
        window = self.engine.config.window
        return Insertion(slots, 5 * ones, self.live * ones, window * ones, words, options)


def fastest(*runs: Callable[[], float], times: int = 7) -> list[float]:
    """The best of each, taken by turns; the first turn, which compiles, is not counted."""
    turns = [[run() for run in runs] for _ in range(times + 1)][1:]
    return [min(column) for column in zip(*turns, strict=True)]
