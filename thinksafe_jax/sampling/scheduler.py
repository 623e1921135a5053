"""The host side of the sampler: the queue, the slots, the pages, and the window in flight.

    requests ─► queue ─► prefill into pages ─► slot ─► decode windows ─► completion
                  ▲                                        │
                  └── preempted: recomputed later ◄────────┘  (pages ran out; youngest first)

The host stays one window behind the device: window k+1 is dispatched before window k is read, so
the device never waits for Python. Decisions look at no clock: what is sampled depends on the seed,
the row and the position alone.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from thinksafe_jax.config import EngineConfig
from thinksafe_jax.sampling.cache import PageAllocator
from thinksafe_jax.sampling.device import Device, Placement
from thinksafe_jax.sampling.filters import Options
from thinksafe_jax.sampling.requests import Completion, Request

_PREFILL_TOKENS = 256  # padded prompt tokens in one prefill call of several prompts
_PLACE_ROWS = 32  # requests that enter slots in one call
_SMALLEST_BUCKET = 32


@dataclass
class EngineStats:
    """Counters of one `generate` call; tokens are useful ones, after-the-end steps not counted."""

    completions: int = 0
    tokens: int = 0
    windows: int = 0
    slot_steps: int = 0  # slots x decode steps
    prefill_calls: int = 0
    prompt_tokens: int = 0
    padded_prompt_tokens: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    active: int = 0  # slots busy now
    seconds: float = 0.0

    @property
    def occupancy(self) -> float:
        """Share of slot-steps that produced a token that was kept."""
        return self.tokens / max(1, self.slot_steps)


@dataclass
class _Running:
    """A request on its way: what the host knows of it."""

    request: Request
    order: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    slot: int = -1
    cursor: int = 0  # tokens in the cache after every dispatched window, at most

    @property
    def ids(self) -> list[int]:
        return [*self.request.prompt_ids, *self.tokens]

    @property
    def limit(self) -> int:
        """Cache entries when finished: the last token's keys are never needed."""
        return len(self.request.prompt_ids) + self.request.sampling.max_new_tokens - 1


class Scheduler:
    """One `generate` call.

    Args:
        device: runs prefill and decode.
        config: slots, window and page size.
        pages: the allocator over the device's pool, empty.
        eos_ids: tokens that end a completion.
        requests: the queue; taken from as slots become free.
    """

    def __init__(
        self,
        device: Device,
        config: EngineConfig,
        pages: PageAllocator,
        eos_ids: Sequence[int],
        requests: Iterator[Request],
    ):
        self.device, self.config, self.pages = device, config, pages
        self.eos_ids, self.waiting = frozenset(eos_ids), requests
        self.preempted: deque[_Running] = deque()
        self.slots: list[_Running | None] = [None] * config.slots
        self.in_flight: tuple[object, list[_Running | None]] | None = None
        self.admitted = 0
        self.stats = EngineStats()

    def completions(self) -> Iterator[Completion]:
        started = time.monotonic()
        self.device.reset()
        while True:
            finished = self.step()
            self.stats.seconds = time.monotonic() - started
            yield from finished
            if self.idle:
                return

    def step(self) -> list[Completion]:
        """Admits, dispatches the next window, and only then reads the one before it."""
        self._admit()
        finished = self._reserve()
        window = self._dispatch() if any(self.slots) else None
        finished += self._read()
        self.in_flight = window
        self.stats.active = sum(slot is not None for slot in self.slots)
        return finished

    @property
    def idle(self) -> bool:
        """Nothing runs, nothing waits: the last `step` found an empty queue."""
        return self.in_flight is None and not any(self.slots) and not self.preempted

    # admission

    def _next(self) -> _Running | None:
        if self.preempted:
            return self.preempted.popleft()
        request = next(self.waiting, None)
        if request is None:
            return None
        self.admitted += 1
        return _Running(request, self.admitted)

    def _admit(self) -> None:
        """Fills free slots from the queue, as long as their prompts and a margin fit the pool."""
        new: list[_Running] = []
        for index in [n for n, slot in enumerate(self.slots) if slot is None]:
            running = self._next()
            if running is None:
                break
            running.cursor = len(running.ids) - 1
            ahead = min(running.cursor + 2 * self.config.window, running.limit)
            busy = sum(slot is not None for slot in self.slots)
            enough = self.pages.pages_for(ahead) + busy <= self.pages.free_pages
            if busy and not enough:
                self.preempted.appendleft(running)
                break
            self.pages.reserve(index, running.cursor)
            running.slot, self.slots[index] = index, running
            new.append(running)
        for bucket, group in self._buckets(new):
            self._prefill(bucket, group)
        for start in range(0, len(new), _PLACE_ROWS):
            self._place(new[start : start + _PLACE_ROWS])

    def _buckets(self, new: list[_Running]) -> Iterator[tuple[int, list[_Running]]]:
        """Groups by padded length: a request's bucket depends on its own length only."""
        by_length: dict[int, list[_Running]] = {}
        for running in new:
            if running.cursor:
                by_length.setdefault(self._bucket(running.cursor), []).append(running)
        for bucket, group in sorted(by_length.items()):
            rows = self._prefill_rows(bucket)
            for start in range(0, len(group), rows):
                yield bucket, group[start : start + rows]

    def _bucket(self, length: int) -> int:
        size = self.config.page_size
        bucket = size * -(-_SMALLEST_BUCKET // size)
        while bucket < length:
            bucket *= 2
        return bucket

    def _prefill_rows(self, bucket: int) -> int:
        """Fixed for a bucket: another number of rows is another matrix product, other last bits."""
        return max(1, _PREFILL_TOKENS // bucket)

    def _prefill(self, bucket: int, group: list[_Running]) -> None:
        rows = self._prefill_rows(bucket)
        tokens = np.zeros((rows, bucket), np.int32)
        lengths = np.zeros(rows, np.int32)
        pages = np.zeros((rows, bucket // self.config.page_size), np.int32)
        for row, running in enumerate(group):
            tokens[row, : running.cursor] = running.ids[:-1]
            lengths[row] = running.cursor
        pages[: len(group)] = self.pages.pages_of([r.slot for r in group], pages.shape[1])
        self.device.prefill(tokens, lengths, pages)
        self.stats.prefill_calls += 1
        self.stats.prompt_tokens += int(lengths.sum())
        self.stats.padded_prompt_tokens += tokens.size

    def _place(self, group: list[_Running]) -> None:
        """Writes the slots' state: the newest token, its position, what is left, key, options."""
        rows = _PLACE_ROWS
        where = np.full(rows, self.config.slots, np.int32)
        token, position, left, top_k = (np.zeros(rows, np.int32) for _ in range(4))
        words = np.zeros((rows, 3), np.uint32)
        temperature, top_p, min_p = (np.zeros(rows, np.float32) for _ in range(3))
        for row, running in enumerate(group):
            sampling = running.request.sampling
            where[row] = running.slot
            token[row] = running.ids[-1]
            position[row] = running.cursor
            left[row] = sampling.max_new_tokens - len(running.tokens)
            words[row] = running.request.random_words
            temperature[row], top_k[row] = sampling.temperature, sampling.top_k
            top_p[row], min_p[row] = sampling.top_p, sampling.min_p
        options = Options(temperature, top_k, top_p, min_p)
        self.device.place(Placement(where, token, position, left, words, options))

    # windows

    def _reserve(self) -> list[Completion]:
        """Gives every slot pages for one more window; preempts the youngest if they run out."""
        finished: list[Completion] = []
        while not self._reserve_all():
            finished += self._read()  # what has finished frees its pages
            if self._reserve_all():
                break
            running = [slot for slot in self.slots if slot is not None]
            self._preempt(max(running, key=lambda slot: slot.order))
        return finished

    def _reserve_all(self) -> bool:
        for slot in sorted((s for s in self.slots if s is not None), key=lambda s: s.order):
            ahead = min(slot.cursor + self.config.window, slot.limit)
            if not self.pages.reserve(slot.slot, ahead):
                return False
        return True

    def _preempt(self, running: _Running) -> None:
        self.stats.preemptions += 1
        self.stats.recomputed_tokens += len(running.ids)
        self._vacate(running)
        self.preempted.appendleft(running)
        self.device.make_idle([running.slot])

    def _vacate(self, running: _Running) -> None:
        self.pages.release(running.slot)
        self.slots[running.slot] = None

    def _dispatch(self) -> tuple[object, list[_Running | None]]:
        window = self.device.window(self.pages.table.copy())
        for slot in self.slots:
            if slot is not None:
                slot.cursor = min(slot.cursor + self.config.window, slot.limit)
        self.stats.windows += 1
        self.stats.slot_steps += self.config.window * self.config.slots
        return window, list(self.slots)

    def _read(self) -> list[Completion]:
        """Takes the tokens of the window in flight; returns what it finished."""
        if self.in_flight is None:
            return []
        window, owners = self.in_flight
        self.in_flight = None
        values, scores = self.device.read(window)
        counts = (values >= 0).sum(axis=0)
        finished = []
        for slot, running in enumerate(owners):
            # a slot that changed hands since was idle here for its new owner
            if running is None or self.slots[slot] is not running or not counts[slot]:
                continue
            running.tokens += values[: counts[slot], slot].tolist()
            running.logprobs += scores[: counts[slot], slot].tolist()
            self.stats.tokens += int(counts[slot])
            reason = self._finish_reason(running)
            if reason:
                self._vacate(running)
                finished.append(_completion(running, reason))
        self.stats.completions += len(finished)
        return finished

    def _finish_reason(self, running: _Running) -> str | None:
        if running.tokens[-1] in self.eos_ids:
            return "stop"
        if len(running.tokens) >= running.request.sampling.max_new_tokens:
            return "length"
        return None


def _completion(running: _Running, reason: str) -> Completion:
    count = len(running.tokens) - (reason == "stop")
    request = running.request
    return Completion(
        request.id, request.sample, running.tokens[:count], running.logprobs[:count], reason
    )
