"""One device program of the sampler: the compiled functions, their state, the calls that change it.

The scheduler speaks to nothing else, so a stand-in with the same methods can rehearse a schedule
without a model (scripts/bench uses one).
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from thinksafe_jax import profiling
from thinksafe_jax.models import Params, UnstackedAdapter
from thinksafe_jax.sampling.drafted_decode import decode_drafted, replay, set_histories
from thinksafe_jax.sampling.drafts import NOTHING, DraftShape
from thinksafe_jax.sampling.kv_cache import KvCache
from thinksafe_jax.sampling.layout import Layout
from thinksafe_jax.sampling.programs import (
    DecodeSpec,
    Insertion,
    decode,
    empty_slots,
    insert,
    prefill,
)
from thinksafe_jax.sampling.sampling_options import Options

INSERT_ROWS = 32  # requests that enter slots in one call
WORTH_COMPILING = 128  # decode steps with half of the slots idle, before fewer are decoded


class Window(NamedTuple):
    """What a window made, on the device or on the host.

    Attributes:
        tokens: i32 `[T, W]`, in order; -1 where a slot was idle or a draft was wrong.
        logprobs: f32 `[T, W]`, of the tokens.
        passes: i32 `[W]`, passes of each slot with drafts, or that it had taken with them; None
            where drafting is off.
    """

    tokens: Any
    logprobs: Any
    passes: Any = None


class Device(Protocol):
    """What the scheduler needs; everything is asynchronous but `read`."""

    def reset(self) -> None: ...

    def prefill(self, tokens: np.ndarray, lengths: np.ndarray, page_ids: np.ndarray) -> None: ...

    def insert(self, new: Insertion) -> None: ...

    def make_idle(self, slots: Sequence[int]) -> None: ...

    def active_slots(self, busy: int) -> int: ...

    def decode(self, table: np.ndarray, slot_ids: np.ndarray) -> Any: ...

    def set_histories(self, slot_ids: np.ndarray, rows: np.ndarray) -> None: ...

    def decode_drafted(self, table: np.ndarray, slot_ids: np.ndarray) -> Any: ...

    def read(self, window: Any) -> Window: ...


class ModelDevice:
    """A model on the devices of this process.

    Args:
        params: parameters with layers as a tuple (`unstack_layers`), where `spec.layout` has them.
        new_cache: makes a KV cache.
        spec: what decode is compiled for.
        slots: of all shards.
        seed: of the run.
        drafts: sizes of drafting; None where it is off.

    Attributes:
        params: may be replaced by others of the same shapes, dtypes and shardings while no request
            is in a slot; nothing is compiled anew for them.
        adapter: beside the parameters, or None; may be replaced in the same way.
    """

    def __init__(
        self,
        params: Params,
        new_cache: Callable[[], KvCache],
        spec: DecodeSpec,
        *,
        slots: int,
        seed: int,
        drafts: DraftShape | None = None,
    ):
        self.params, self.spec, self.drafts = params, spec, drafts
        self.adapter: UnstackedAdapter | None = None
        self._new_cache = new_cache
        _ = self.cache  # a pool that does not fit is seen before a request is taken
        self.window_sizes = self.layout.window_sizes(slots)
        self._count = slots
        self._compiled, self._idle_steps = {slots}, 0
        self._seed = self.layout.put(np.uint32(seed))
        self.reset()

    @cached_property
    def cache(self) -> KvCache:
        """The keys and values of all slots."""
        return self._new_cache()

    def release_cache(self) -> None:
        """Lets go of the cache, and of what is in it; the next use makes another."""
        vars(self).pop("cache", None)

    @property
    def layout(self) -> Layout:
        """Where slots, pages and heads lie."""
        return self.spec.layout

    def reset(self) -> None:
        """Makes every slot idle.

        A cache that a call was given and has not returned, as where Ctrl-C broke it off, is made
        anew.
        """
        if any(array.is_deleted() for array in jax.tree.leaves(vars(self).get("cache"))):
            self.release_cache()
        self.slots = self.layout.put(empty_slots(self._count), self.layout.rows)
        if self.drafts is not None:
            texts = np.full((self._count, self.drafts.columns), NOTHING, np.int32)
            self.history = self.layout.put(texts, self.layout.rows)

    def prefill(self, tokens: np.ndarray, lengths: np.ndarray, page_ids: np.ndarray) -> None:
        """Writes the KV of `tokens` i32 `[P, T]`, `lengths` each, into `page_ids` `[P, T / ps]`.

        P is the number of shards; row p goes to the pages of shard p.
        """
        arrays = self.layout.put((tokens, lengths, page_ids), self.layout.rows)
        cfg = self.spec.cfg
        model = (self.params, self.cache, *arrays, self.adapter)
        self.cache = prefill(*model, cfg=cfg, layout=self.layout)

    def insert(self, new: Insertion) -> None:
        """Puts requests into slots."""
        self.slots = insert(self.slots, self.layout.put(new), self._seed, layout=self.layout)

    def warm_up(self, prompts: Sequence[int], table: np.ndarray) -> None:
        """Runs every program once with nothing in it, which compiles them.

        Args:
            prompts: padded lengths of prompts.
            table: i32 `[slots, pages]`, zeros.
        """
        shards, page_size = self.layout.shards, self.cache.page_size
        for length in prompts:
            tokens = np.zeros((shards, length), np.int32)
            page_ids = np.zeros((shards, length // page_size), np.int32)
            self.prefill(tokens, np.zeros(shards, np.int32), page_ids)
        self._warm_up_slots()
        for count in self.window_sizes:
            slot_ids = np.arange(count, dtype=np.int32)
            self.read(self.decode(table, slot_ids))
            if self.drafts is not None:
                self.read(self.decode_drafted(table, slot_ids))

    def _warm_up_slots(self) -> None:
        """Runs what `insert` and `make_idle` run, and changes nothing."""
        zeros, beyond = np.zeros(INSERT_ROWS, np.int32), np.full(INSERT_ROWS, self._count, np.int32)
        words = np.zeros((INSERT_ROWS, 3), np.uint32)
        self.insert(Insertion(beyond, zeros, zeros, zeros, words, Options.of([], INSERT_ROWS)))
        self.make_idle([])
        if self.drafts is not None:
            texts = np.full((INSERT_ROWS, self.drafts.columns), NOTHING, np.int32)
            self.set_histories(beyond, texts)

    def set_histories(self, slot_ids: np.ndarray, rows: np.ndarray) -> None:
        """Puts texts i32 `[P, columns]` into the histories of slots; see `drafts`."""
        arrays = self.layout.put((slot_ids, rows))
        self.history = set_histories(self.history, *arrays, layout=self.layout)

    def make_idle(self, slots: Sequence[int]) -> None:
        """Stops slots that were preempted."""
        others = np.ones(self._count, np.int32)
        others[list(slots)] = 0
        self.slots = self.slots._replace(
            remaining=self.slots.remaining * self.layout.put(others, self.layout.rows)
        )

    def active_slots(self, busy: int) -> int:
        """Slots of the next window, of which `busy` have work: one of `Layout.window_sizes`.

        A window of fewer slots is another program; it is compiled once enough steps did without.
        """
        fitting = min(size for size in self.window_sizes if size >= busy)
        if fitting not in self._compiled:
            self._idle_steps += self.spec.steps
            if self._idle_steps < WORTH_COMPILING:
                return min(size for size in self._compiled if size >= busy)
            self._idle_steps = 0
        return fitting

    def decode(self, table: np.ndarray, slot_ids: np.ndarray) -> Window:
        """Dispatches one window of decode steps for the slots `slot_ids`; returns at once.

        Args:
            table: i32 `[slots, pages]`, the pages of every slot.
            slot_ids: i32 `[W]`, ascending.
        """
        profiling.step("sample", self.slots)
        pages, ids = self._of_window(table, slot_ids)
        self.cache, self.slots, tokens, logprobs = decode(
            self.params, self.cache, self.slots, pages, ids, self.adapter, spec=self.spec
        )
        passes = None
        if self.drafts is not None:
            self.history, passes = replay(
                self.history, self.slots, tokens, ids, layout=self.layout, shape=self.drafts
            )
        return _on_its_way(Window(tokens, logprobs, passes))

    def decode_drafted(self, table: np.ndarray, slot_ids: np.ndarray) -> Window:
        """As `decode`, with drafts: as many passes, each of which may make several tokens."""
        profiling.step("sample", self.slots)
        pages, ids = self._of_window(table, slot_ids)
        assert self.drafts is not None, "a device with drafting switched off"
        self.cache, self.slots, self.history, made = decode_drafted(
            self.params,
            self.cache,
            self.slots,
            self.history,
            pages,
            ids,
            self.adapter,
            spec=self.spec,
            shape=self.drafts,
        )
        return _on_its_way(Window(*made))

    def _of_window(
        self, table: np.ndarray, slot_ids: np.ndarray
    ) -> tuple[jax.Array, jax.Array | None]:
        """The pages of a window's slots, and their numbers where they are not all."""
        self._compiled.add(len(slot_ids))
        every = len(slot_ids) == self._count
        pages = self.layout.put(table[slot_ids], self.layout.rows)
        return pages, None if every else self.layout.put(slot_ids)

    def read(self, window: Window) -> Window:
        """Waits for a window, and brings it to the host."""
        return jax.device_get(window)


def _on_its_way(window: Window) -> Window:
    """The window, whose arrays have set out to the host."""
    for array in jax.tree.leaves(window):
        array.copy_to_host_async()
    return window
