"""A device without a model: the scheduler runs at full scale in seconds, on real lengths."""

from collections.abc import Sequence

import numpy as np
from workloads import chain_of_thought_lengths

from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.sampling import Request
from thinksafe_jax.sampling.device import Window
from thinksafe_jax.sampling.pages import PageAllocator
from thinksafe_jax.sampling.programs import Insertion
from thinksafe_jax.sampling.scheduler import Scheduler
from thinksafe_jax.sampling.stats import EngineStats


class CountingDevice:
    """Every slot produces the token 1 until its maximum; nothing else happens."""

    def __init__(self, slots: int, steps: int):
        self._remaining = np.zeros(slots, np.int64)
        self._steps = np.arange(steps)[:, None]

    def reset(self) -> None:
        self._remaining[:] = 0

    def prefill(self, tokens: np.ndarray, lengths: np.ndarray, page_ids: np.ndarray) -> None:
        """Takes no time, as next to thousands of decode steps."""

    def insert(self, new: Insertion) -> None:
        real = np.asarray(new.slot_ids) < len(self._remaining)
        self._remaining[new.slot_ids[real]] = new.remaining[real]

    def make_idle(self, slots: Sequence[int]) -> None:
        self._remaining[list(slots)] = 0

    def active_slots(self, busy: int) -> int:
        return len(self._remaining)

    def decode(self, table: np.ndarray, slot_ids: np.ndarray) -> np.ndarray:
        tokens = np.where(self._steps < self._remaining, 1, -1)
        self._remaining = np.maximum(0, self._remaining - len(self._steps))
        return tokens

    def set_histories(self, slot_ids: np.ndarray, rows: np.ndarray) -> None:
        """Looks nothing up: no draft is ever right."""

    def decode_drafted(self, table: np.ndarray, slot_ids: np.ndarray) -> np.ndarray:
        return self.decode(table, slot_ids)

    def read(self, window: np.ndarray) -> Window:
        return Window(window, np.zeros(window.shape, np.float32))


def rehearse(count: int, slots: int, pool_share: float = 1.0, window: int = 32) -> EngineStats:
    """Schedules `count` long chains of thought over `slots`.

    Args:
        pool_share: KV pool over what every slot at its full length would need.
    """
    config = EngineConfig(slots=slots, window=window, page_size=64)
    longest = 250 + 16_384
    pages = int(pool_share * slots * longest / config.page_size) + 1
    requests = (
        Request(str(n), range(250), SamplingConfig(max_new_tokens=int(length)))
        for n, length in enumerate(chain_of_thought_lengths(count))
    )
    allocator = PageAllocator(pages, slots, -(-longest // 512) * 8, config.page_size)
    stats = EngineStats()
    device = CountingDevice(slots, window)
    run = Scheduler(device, config, allocator, 1, (), requests, stats)
    run.step()
    while not run.idle:
        run.step()
    return stats
