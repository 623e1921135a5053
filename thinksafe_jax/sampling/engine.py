"""The sampler: fixed slots that are refilled while others run, over a paged KV cache.

    requests ─► queue ─► prefill into pages ─► slot ─► decode windows ─► completion
                  ▲                                        │
                  └── preempted: recomputed later ◄────────┘  (pages ran out; youngest first)

The host stays one window behind the device: window k+1 is dispatched before window k is read, so
the device never waits for Python. Scheduling looks at no clock: what is sampled depends on the
seed, the row and the position alone.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.config import EngineConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.params import Params, unstack_layers
from thinksafe_jax.sampling.attention import pages_per_block
from thinksafe_jax.sampling.cache import PageAllocator, new_pools
from thinksafe_jax.sampling.filters import Options
from thinksafe_jax.sampling.memory import default_pool_tokens
from thinksafe_jax.sampling.programs import admit, decode, empty_slots, prefill
from thinksafe_jax.sampling.requests import Completion, Request

_PREFILL_TOKENS = 256  # padded prompt tokens in one prefill call of several prompts
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


class Engine:
    """Samples completions of one model.

    Args:
        cfg: the model's facts.
        params: its parameters, layers stacked (unstacked once here) or already a tuple.
        config: slots, window, page size, pool and context.
        eos_ids: every id that ends a completion.
        seed: seed of the run; see `Request.random_words` for what else keys a row.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        params: Params,
        config: EngineConfig,
        eos_ids: Sequence[int],
        seed: int = 0,
    ):
        self.cfg, self.config, self.eos_ids = cfg, config, tuple(eos_ids)
        self.params = params if isinstance(params["layers"], tuple) else unstack_layers(params)
        self.max_length = min(
            config.max_length or cfg.max_position_embeddings, cfg.max_position_embeddings
        )
        # XLA:CPU widens a whole bfloat16 pool to float32 and back for every write
        dtype = params["embed"].dtype if jax.default_backend() != "cpu" else jnp.dtype("float32")
        size, block = config.page_size, pages_per_block(config.page_size)
        per_slot = -(-self.max_length // size)
        pool_tokens = config.pool_tokens or default_pool_tokens(
            cfg, config.slots * self.max_length, dtype
        )
        self._pages = 1 + -(-pool_tokens // size)
        self._pages_per_slot = -(-per_slot // block) * block
        self._pools = new_pools(cfg, self._pages, size, dtype)
        self._slots = empty_slots(config.slots)
        self._seed = jnp.uint32(seed)
        self.stats = EngineStats()

    def refuses(self, request: Request) -> str | None:
        """Why a request can never run here, or None.

        The reason names the numbers: no prompt, prompt plus maximum over the context or the pool.
        """
        need = len(request.prompt_ids) + request.sampling.max_new_tokens
        pool = (self._pages - 1) * self.config.page_size
        if not len(request.prompt_ids):
            return f"{request.id}: the prompt has no tokens"
        for what, most in (("context", self.max_length), ("KV pool", pool)):
            if need > most:
                return (
                    f"{request.id}: prompt of {len(request.prompt_ids)} + max_new_tokens "
                    f"{request.sampling.max_new_tokens} = {need} tokens, the {what} holds {most}"
                )
        return None

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Samples every request; completions come in the order in which they finish.

        Requests are taken from the iterable as slots become free, so a long queue costs no
        memory. A sequence is checked as a whole before anything runs.

        Raises:
            InputError: a request cannot fit (`refuses` says why).
        """
        if isinstance(requests, Sequence):
            for request in requests:
                self._check(request)
        return _Run(self, iter(requests)).completions()

    def _check(self, request: Request) -> Request:
        reason = self.refuses(request)
        if reason:
            raise InputError(reason)
        return request


class _Run:
    """One `generate` call: the queue, the slots, and the window in flight."""

    def __init__(self, engine: Engine, requests: Iterator[Request]):
        self.engine, self.config = engine, engine.config
        self.waiting = requests
        self.preempted: deque[_Running] = deque()
        self.slots: list[_Running | None] = [None] * self.config.slots
        self.pages = PageAllocator(
            engine._pages, self.config.slots, engine._pages_per_slot, self.config.page_size
        )
        self.in_flight: tuple[jax.Array, jax.Array, list[_Running | None]] | None = None
        self.admitted = 0
        self.stats = engine.stats = EngineStats()

    def completions(self) -> Iterator[Completion]:
        started = time.monotonic()
        self._clear_slots()
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
        return _Running(self.engine._check(request), self.admitted)

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
        for start in range(0, len(new), self._admit_rows):
            self._place(new[start : start + self._admit_rows])

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

    @property
    def _admit_rows(self) -> int:
        return min(self.config.slots, 32)

    def _prefill(self, bucket: int, group: list[_Running]) -> None:
        rows = self._prefill_rows(bucket)
        tokens = np.zeros((rows, bucket), np.int32)
        lengths = np.zeros(rows, np.int32)
        pages = np.zeros((rows, bucket // self.config.page_size), np.int32)
        for row, running in enumerate(group):
            tokens[row, : running.cursor] = running.ids[:-1]
            lengths[row] = running.cursor
        pages[: len(group)] = self.pages.pages_of([r.slot for r in group], pages.shape[1])
        engine = self.engine
        engine._pools = prefill(
            engine.params, engine._pools, tokens, lengths, pages, cfg=engine.cfg
        )
        self.stats.prefill_calls += 1
        self.stats.prompt_tokens += int(lengths.sum())
        self.stats.padded_prompt_tokens += tokens.size

    def _place(self, group: list[_Running]) -> None:
        """Writes the slots' state: the newest token, its position, what is left, key, options."""
        rows = self._admit_rows
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
        engine = self.engine
        engine._slots = admit(
            engine._slots, where, token, position, left, words, engine._seed, options
        )

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
        self._clear_slots([running.slot])

    def _clear_slots(self, which: Sequence[int] | None = None) -> None:
        """Makes slots idle on the device."""
        engine = self.engine
        if which is None:
            engine._slots = empty_slots(self.config.slots)
            return
        mask = np.ones(self.config.slots, np.int32)
        mask[list(which)] = 0
        engine._slots = engine._slots._replace(left=engine._slots.left * jnp.asarray(mask))

    def _vacate(self, running: _Running) -> None:
        self.pages.release(running.slot)
        self.slots[running.slot] = None

    def _dispatch(self) -> tuple[jax.Array, jax.Array, list[_Running | None]]:
        engine, steps = self.engine, self.config.window
        engine._pools, engine._slots, tokens, logprobs = decode(
            engine.params,
            engine._pools,
            engine._slots,
            self.pages.table.copy(),
            cfg=engine.cfg,
            steps=steps,
            eos_ids=engine.eos_ids,
        )
        for array in (tokens, logprobs):
            array.copy_to_host_async()
        for slot in self.slots:
            if slot is not None:
                slot.cursor = min(slot.cursor + steps, slot.limit)
        self.stats.windows += 1
        self.stats.slot_steps += steps * self.config.slots
        return tokens, logprobs, list(self.slots)

    def _read(self) -> list[Completion]:
        """Takes the tokens of the window in flight; returns what it finished."""
        if self.in_flight is None:
            return []
        tokens, logprobs, owners = self.in_flight
        self.in_flight = None
        values, scores = jax.device_get((tokens, logprobs))
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
        if running.tokens[-1] in self.engine.eos_ids:
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
