"""The host side of the sampler: the queue, the slots, the pages, and the window in flight.

    requests ─► queue ─► prefill into pages ─► slot ─► decode windows ─► completion
                  ▲                                        │
                  └── preempted: recomputed later ◄────────┘  (pages ran out; youngest first)

The host stays one window behind the device: window k+1 is dispatched before window k is read, so
the device never waits for Python. Decisions look at no clock: what is sampled depends on the seed,
the row and the position alone.
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np

from thinksafe_jax.config import EngineConfig
from thinksafe_jax.sampling.device import INSERT_ROWS, Device
from thinksafe_jax.sampling.drafting import Drafting
from thinksafe_jax.sampling.pages import PageAllocator
from thinksafe_jax.sampling.programs import Insertion
from thinksafe_jax.sampling.requests import Completion, Request
from thinksafe_jax.sampling.running import Dispatched, Running, prefill_lengths
from thinksafe_jax.sampling.sampling_options import Options
from thinksafe_jax.sampling.stats import EngineStats

_END = object()  # of the queue


class Scheduler:
    """One `generate` call on one device program.

    Args:
        device: runs prefill and decode.
        config: window and page size.
        pages: the allocator over the device's pool, empty; its table has a row for each slot.
        shards: parts into which slots and pages are cut.
        eos_ids: tokens that end a completion.
        requests: the queue, which other schedulers may share; taken from as slots become free. None
            where the next request depends on one that is running: it is asked for again later.
        stats: where to count.
        drafting: of a device that takes drafts; None where drafting is off.

    Many parameters: what `Engine` holds, and a scheduler for each device runs on.
    """

    def __init__(
        self,
        device: Device,
        config: EngineConfig,
        pages: PageAllocator,
        shards: int,
        eos_ids: Sequence[int],
        requests: Iterator[Request | None],
        stats: EngineStats,
        drafting: Drafting | None = None,
    ):
        self.device, self.config, self.pages, self.shards = device, config, pages, shards
        self.eos_ids, self.waiting, self.stats = frozenset(eos_ids), requests, stats
        self.drafting, self._drafted = drafting, False
        self.preempted: deque[Running] = deque()
        self.slots: list[Running | None] = [None] * len(pages.table)
        self._busy = [0] * shards  # slots of each shard: counted anew for each row they cost much
        # Cache entries of each slot, 0 where idle: after every dispatched window at most, and when
        # finished. Arrays, because every window looks at all of them. How far a window with drafts
        # went is known when it is read.
        self._cursor, self._limit = np.zeros((2, len(self.slots)), np.int64)
        self.in_flight: Dispatched | None = None
        self.admitted, self._exhausted = 0, False
        longest = pages.table.shape[1] * config.page_size
        self._lengths = prefill_lengths(config.page_size, longest)
        device.reset()

    def step(self) -> list[Completion]:
        """Fills slots, dispatches the next window, and only then reads the one before it."""
        self._admit()
        self._drafted = self.drafting is not None and self.drafting.wanted(self.active)
        finished = self._make_room()
        # dispatched before the read: the device goes on while the host looks at the last window
        window = self._dispatch() if any(self.slots) else None
        finished += self._read(later=window.most if window else 0)
        self.in_flight = window
        return finished

    @property
    def active(self) -> int:
        """Slots that are busy."""
        return sum(self._busy)

    @property
    def unfinished(self) -> int:
        """Rows that it has taken and not finished."""
        return self.active + len(self.preempted)

    @property
    def idle(self) -> bool:
        """Nothing runs, and nothing waits: the queue has been seen to end."""
        running = self.in_flight is not None or any(self.slots) or self.preempted
        return self._exhausted and not running

    # admission

    def _next(self) -> Running | None:
        if self.preempted:
            return self.preempted.popleft()
        request = next(self.waiting, _END)
        if not isinstance(request, Request):
            self._exhausted = request is _END
            return None
        self.admitted += 1
        return Running(request, self.admitted)

    def _admit(self) -> None:
        """Fills free slots from the queue, as long as their prompts and a margin fit the pool."""
        new: list[Running] = []
        full: set[int] = set()
        for index in self._free_slots():
            shard = self.pages.shard_of(index)
            if shard in full:
                continue
            running = self._next()
            if running is None:
                break
            running.cursor = len(running.ids) - 1
            if not self._has_room(running, index):
                self.preempted.appendleft(running)
                full.add(shard)
                continue
            self.pages.reserve(index, running.cursor)
            running.slot, self.slots[index] = index, running
            self._cursor[index], self._limit[index] = running.cursor, running.limit
            self._busy[shard] += 1
            new.append(running)
        for length, rows in self._prefill_calls(new):
            self._prefill(length, rows)
        for start in range(0, len(new), INSERT_ROWS):
            self._insert(new[start : start + INSERT_ROWS])

    def _free_slots(self) -> list[int]:
        """Of the shards by turns, so that they fill evenly."""
        per_shard = len(self.slots) // self.shards
        free = [n for n, slot in enumerate(self.slots) if slot is None]
        return sorted(free, key=lambda n: (n % per_shard, n))

    def _has_room(self, running: Running, index: int) -> bool:
        busy = self._busy[self.pages.shard_of(index)]
        return self._fits(running, busy, self.pages.free_pages(index))

    def _fits(self, running: Running, busy: int, free: int) -> bool:
        """Room for the prompt, two windows, and a page for each of the shard's busy slots."""
        ahead = min(running.cursor + 2 * self.config.window, running.limit)
        return not busy or self.pages.pages_for(ahead) + busy <= free

    def can_begin(self, requests: Sequence[Request]) -> bool:
        """Whether all of them would enter slots if they were admitted now, in their order."""
        slots = self._free_slots()
        if self.preempted or len(requests) > len(slots):
            return False
        busy, promised = list(self._busy), [0] * self.shards
        for request, index in zip(requests, slots, strict=False):
            shard, running = self.pages.shard_of(index), Running(request, 0)
            running.cursor = len(request.prompt_ids) - 1
            free = self.pages.free_pages(index) - promised[shard]
            if not self._fits(running, busy[shard], free):
                return False
            busy[shard] += 1
            promised[shard] += self.pages.pages_for(running.cursor)
        return True

    def _prefill_calls(self, new: list[Running]) -> Iterator[tuple[int, list[Running]]]:
        """One prompt for each shard in a call, of one padded length.

        The number of rows is always the same: another number is another matrix product, with
        other last bits.
        """
        by_length: dict[int, list[list[Running]]] = {}
        for running in new:
            if running.cursor:
                length = self._lengths[bisect_left(self._lengths, running.cursor)]
                shards = by_length.setdefault(length, [[] for _ in range(self.shards)])
                shards[self.pages.shard_of(running.slot)].append(running)
        for length, shards in sorted(by_length.items()):
            for rows in zip_longest(*shards):
                yield length, [row for row in rows if row is not None]

    def _prefill(self, length: int, rows: list[Running]) -> None:
        tokens = np.zeros((self.shards, length), np.int32)
        lengths = np.zeros(self.shards, np.int32)
        pages = np.zeros((self.shards, length // self.config.page_size), np.int32)
        for running in rows:
            row = self.pages.shard_of(running.slot)
            tokens[row, : running.cursor] = running.ids[:-1]
            lengths[row] = running.cursor
            pages[row] = self.pages.pages_of(running.slot, pages.shape[1])
        self.device.prefill(tokens, lengths, pages)
        self.stats.prefill_calls += 1
        self.stats.prompt_tokens += int(lengths.sum())
        self.stats.padded_prompt_tokens += tokens.size

    def _insert(self, group: list[Running]) -> None:
        """Writes the state of slots that requests enter; rows beyond the group are ignored."""
        rows = INSERT_ROWS
        slot_ids = np.full(rows, len(self.slots), np.int32)
        token, position, remaining = (np.zeros(rows, np.int32) for _ in range(3))
        key_words = np.zeros((rows, 3), np.uint32)
        for row, running in enumerate(group):
            slot_ids[row] = running.slot
            token[row] = running.ids[-1]
            position[row] = running.cursor
            remaining[row] = running.request.sampling.max_new_tokens - len(running.tokens)
            key_words[row] = running.request.random_words
        options = Options.of([running.request.sampling for running in group], rows)
        self.device.insert(Insertion(slot_ids, token, position, remaining, key_words, options))
        if self.drafting is not None:
            texts = [(running.request, running.ids) for running in group]
            self.device.set_histories(slot_ids, self.drafting.histories(texts, rows))

    # windows

    def _make_room(self) -> list[Completion]:
        """Sees that every slot has pages for one more window; preempts the youngest if need be.

        Returns:
            What was found to be finished on the way.
        """
        finished: list[Completion] = []
        while (shard := self._reserve_pages()) is not None:
            if self.in_flight is not None:
                finished += self._read()  # what has finished gives its pages back
                continue
            # the youngest has the least to compute again, and the oldest always ends
            running = [s for s in self.slots if s and self.pages.shard_of(s.slot) == shard]
            self._preempt(max(running, key=lambda slot: slot.order))
        return finished

    def _reserve_pages(self) -> int | None:
        """Reserves pages for one more window, for the oldest first.

        Returns:
            The shard that ran out of pages, where it stopped; None once all slots have theirs.
        """
        ahead = self._after_window()
        lacking = [self.slots[slot] for slot in self.pages.lacking(ahead)]
        for running in sorted((s for s in lacking if s is not None), key=lambda s: s.order):
            if not self.pages.reserve(running.slot, int(ahead[running.slot])):
                return self.pages.shard_of(running.slot)
        return None

    def _after_window(self) -> np.ndarray:
        """Cache entries of each slot after one more window, at most: i64 `[slots]`."""
        return np.minimum(self._cursor + self._most, self._limit)

    @property
    def _most(self) -> int:
        """Tokens that the next window makes of a slot at most."""
        drafting = self.drafting if self._drafted else None
        return self.config.window * (1 if drafting is None else drafting.shape.positions)

    def _preempt(self, running: Running) -> None:
        self.stats.preemptions += 1
        self.stats.recomputed_tokens += len(running.ids)
        self._vacate(running)
        self.preempted.appendleft(running)
        self.device.make_idle([running.slot])

    def _vacate(self, running: Running) -> None:
        self.pages.release(running.slot)
        self.slots[running.slot] = None
        self._cursor[running.slot] = self._limit[running.slot] = 0
        self._busy[self.pages.shard_of(running.slot)] -= 1

    def _dispatch(self) -> Dispatched:
        slot_ids, drafted = self._slots_to_decode(), self._drafted
        run = self.device.decode_drafted if drafted else self.device.decode
        window = run(self.pages.table, slot_ids)
        self._cursor = self._after_window()
        self.stats.live_tokens += int(self._cursor.sum())
        self.stats.windows += 1
        self.stats.drafted_windows += drafted
        self.stats.pool_tokens += self.pages.pages * self.config.page_size
        self.stats.slot_steps += self.config.window * len(slot_ids)
        # who is in them now: by the time the window is read a slot may have changed hands
        owners = [(slot, self.slots[slot]) for slot in slot_ids.tolist()]
        return Dispatched(window, owners, self._most, drafted)

    def _slots_to_decode(self) -> np.ndarray:
        """The slots of the next window, i32 `[W]`: all, or fewer where half of them are idle."""
        busy_first = sorted(range(len(self.slots)), key=lambda n: self.slots[n] is None)
        return np.sort(busy_first[: self.device.active_slots(self.active)]).astype(np.int32)

    def _read(self, later: int = 0) -> list[Completion]:
        """Takes the tokens of the window in flight; returns what it finished.

        Args:
            later: tokens at most of a window that was dispatched since.
        """
        if self.in_flight is None:
            return []
        dispatched, self.in_flight = self.in_flight, None
        began = time.perf_counter()
        window = self.device.read(dispatched.window)
        self.stats.waiting_seconds += time.perf_counter() - began
        tokens = np.ascontiguousarray(window.tokens.T, np.int32)  # a row for each slot
        logprobs = np.ascontiguousarray(window.logprobs.swapaxes(0, 1), np.float32)
        made = tokens >= 0
        counts = made.sum(axis=1).tolist()
        finished, total, passes = [], 0, 0
        for row, (slot, running) in enumerate(dispatched.owners):
            # a slot that changed hands since then was idle in this window for its new owner
            if running is None or self.slots[slot] is not running or not counts[row]:
                continue
            seen = len(running.tokens)
            running.tokens.frombytes(tokens[row, made[row]].tobytes())
            running.logprobs.frombytes(logprobs[row, made[row]].tobytes())
            by_request = running.ends_by_request(seen)
            total += len(running.tokens) - seen
            passes += 0 if window.passes is None else int(window.passes[row])
            if dispatched.drafted:
                entries = len(running.request.prompt_ids) + len(running.tokens) - 1
                self._cursor[slot] = min(entries + later, running.limit)
            reason = "stop" if by_request else running.finish_reason(self.eos_ids)
            if by_request:
                self.device.make_idle([slot])
            if reason:
                self._vacate(running)
                finished.append(running.completion(reason, self.eos_ids))
                if self.drafting is not None:
                    self.drafting.finished(running.request, running.tokens)
        self.stats.tokens += total
        self.stats.completions += len(finished)
        self._measure(total, passes, dispatched.drafted)
        return finished

    def _measure(self, tokens: int, passes: int, drafted: bool) -> None:
        """Counts what a window made, and in how many passes with drafts it did or had done so."""
        if self.drafting is None:
            return
        self.drafting.measure(tokens, passes)
        if drafted:
            self.stats.drafted_passes += passes
            self.stats.accepted += tokens - passes
        else:
            self.stats.replayed_passes += passes
            self.stats.replayed_tokens += tokens
