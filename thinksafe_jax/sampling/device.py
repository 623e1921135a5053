"""The device side of the sampler: weights, pools and slots, and the programs that change them.

The scheduler speaks to nothing else, so a stand-in with the same methods can rehearse a schedule
without a model (scripts/bench uses one).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.models import ModelConfig, Params
from thinksafe_jax.sampling.kv_cache import new_pools
from thinksafe_jax.sampling.layout import Layout
from thinksafe_jax.sampling.next_token import Options
from thinksafe_jax.sampling.programs import admit, decode, empty_slots, prefill

PLACE_ROWS = 32  # requests that enter slots in one call
WORTH_COMPILING = 128  # decode steps with half of the slots idle, before fewer are decoded


@dataclass(frozen=True)
class Placement:
    """State of the slots that requests enter; numpy, one entry a row, `[P]` or `[P, 3]`."""

    slot: np.ndarray  # i32; an index beyond the last slot is ignored
    token: np.ndarray  # i32, the newest token
    position: np.ndarray  # i32, its position
    left: np.ndarray  # i32, tokens still allowed
    words: np.ndarray  # u32 [P, 3], `Request.random_words`
    options: tuple[np.ndarray, ...]  # in the order of `Options`


class Device(Protocol):
    """What the scheduler needs; everything is asynchronous but `read`."""

    def reset(self) -> None: ...

    def prefill(self, tokens: np.ndarray, lengths: np.ndarray, pages: np.ndarray) -> None: ...

    def place(self, placement: Placement) -> None: ...

    def make_idle(self, slots: Sequence[int]) -> None: ...

    def width(self, busy: int) -> int: ...

    def window(self, table: np.ndarray, which: np.ndarray) -> Any: ...

    def read(self, window: Any) -> tuple[np.ndarray, np.ndarray]: ...


class ModelDevice:
    """A model on the devices of this process.

    Args:
        params: parameters with layers as a tuple (`unstack_layers`).
        pages: pages of one shard.
        steps: decode steps in a window.
        attention: name of the decode attention, see `attention.choose`.
        layout: how they lie on a mesh; the parameters lie there already.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        params: Params,
        *,
        slots: int,
        pages: int,
        page_size: int,
        steps: int,
        eos_ids: tuple[int, ...],
        seed: int,
        kv_dtype: jnp.dtype,
        attention: str,
        layout: Layout,
    ):
        self.layout, self.attention = layout, attention
        self.cfg, self.params, self.steps, self.eos_ids = cfg, params, steps, eos_ids
        self._count = slots
        self.widths = layout.widths(slots)
        self._compiled, self._idle_steps = {slots}, 0
        self._pools = new_pools(
            cfg, layout.shards * pages, page_size, kv_dtype, layout.sharding(layout.pool)
        )
        self._seed = layout.put(np.uint32(seed))
        self.reset()

    def reset(self) -> None:
        """Makes every slot idle."""
        self._slots = self.layout.put(empty_slots(self._count), self.layout.rows)

    def prefill(self, tokens: np.ndarray, lengths: np.ndarray, pages: np.ndarray) -> None:
        """Writes the KV of `tokens` i32 `[P, T]`, `lengths` each, into `pages` `[P, T / ps]`.

        P is the number of shards; row p goes to the pages of shard p.
        """
        arrays = self.layout.put((tokens, lengths, pages), self.layout.rows)
        self._pools = prefill(self.params, self._pools, *arrays, cfg=self.cfg, layout=self.layout)

    def place(self, placement: Placement) -> None:
        """Puts requests into slots."""
        p = placement
        arrays = self.layout.put((p.slot, p.token, p.position, p.left, p.words))
        options = Options(*self.layout.put(p.options))
        self._slots = admit(self._slots, *arrays, self._seed, options, layout=self.layout)

    def warm_up_slots(self) -> None:
        """Runs what `place` and `make_idle` run, and changes nothing."""
        rows = PLACE_ROWS
        ints, floats = np.zeros(rows, np.int32), np.zeros(rows, np.float32)
        options = (floats, ints, floats, floats)
        nowhere = np.full(rows, self._count, np.int32)
        words = np.zeros((rows, 3), np.uint32)
        self.place(Placement(nowhere, ints, ints, ints, words, options))
        self.make_idle([])

    def make_idle(self, slots: Sequence[int]) -> None:
        """Stops slots that were preempted."""
        keep = np.ones(self._count, np.int32)
        keep[list(slots)] = 0
        self._slots = self._slots._replace(
            left=self._slots.left * self.layout.put(keep, self.layout.rows)
        )

    def width(self, busy: int) -> int:
        """Slots of the next window, of which `busy` have work: one of `Layout.widths`.

        A narrower window is another program; it is compiled once enough steps did without.
        """
        fitting = min(width for width in self.widths if width >= busy)
        if fitting not in self._compiled:
            self._idle_steps += self.steps
            if self._idle_steps < WORTH_COMPILING:
                return min(width for width in self._compiled if width >= busy)
            self._idle_steps = 0
        return fitting

    def window(self, table: np.ndarray, which: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Dispatches one window of decode steps for the slots `which`; returns at once."""
        self._compiled.add(len(which))
        some = None if len(which) == self._count else self.layout.put(which)
        self._pools, self._slots, tokens, logprobs = decode(
            self.params,
            self._pools,
            self._slots,
            self.layout.put(table[which], self.layout.rows),
            some,
            cfg=self.cfg,
            steps=self.steps,
            eos_ids=self.eos_ids,
            layout=self.layout,
            attention=self.attention,
        )
        for array in (tokens, logprobs):
            array.copy_to_host_async()
        return tokens, logprobs

    def read(self, window: tuple[jax.Array, jax.Array]) -> tuple[np.ndarray, np.ndarray]:
        """Waits for a window: tokens i32 `[steps, B]` (-1 where idle) and log-probabilities."""
        return jax.device_get(window)
