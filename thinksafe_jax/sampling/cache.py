"""The paged KV cache: pools on the device, page bookkeeping on the host.

    table[slot] = [7, 3, 9, 0, ...]      page 7 holds the slot's tokens 0..ps-1, page 3 the next ps

A page belongs to one slot at a time. Page 0 belongs to nobody: idle slots and padding write there,
so no write needs a mask.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.models.config import ModelConfig

Pool = tuple[jax.Array, jax.Array]  # keys and values of one layer, each [pages, page_size, K, H]


def new_pools(
    cfg: ModelConfig,
    pages: int,
    page_size: int,
    dtype: jnp.dtype,
    sharding: jax.sharding.Sharding | None = None,
) -> tuple[Pool, ...]:
    """Zeroed pools, one a layer. Zeros, because 0 x NaN of an uninitialised page is NaN."""
    shape = (pages, page_size, cfg.num_kv_heads, cfg.head_dim)

    def zeros() -> jax.Array:
        return jnp.zeros(shape, dtype, device=sharding)

    return tuple((zeros(), zeros()) for _ in range(cfg.num_layers))


def kv_bytes_per_token(cfg: ModelConfig, dtype: jnp.dtype) -> int:
    """Bytes that one token takes over all layers."""
    return 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * jnp.dtype(dtype).itemsize


def write_tokens(
    pool: Pool, k: jax.Array, v: jax.Array, page: jax.Array, offset: jax.Array
) -> Pool:
    """Writes one token a slot: `k`, `v` `[B, K, H]` at `page`, `offset` i32 `[B]`."""
    keys, values = pool
    return (
        keys.at[page, offset].set(k.astype(keys.dtype)),
        values.at[page, offset].set(v.astype(values.dtype)),
    )


def write_prompts(pool: Pool, k: jax.Array, v: jax.Array, pages: jax.Array) -> Pool:
    """Writes whole prompts: `k`, `v` `[P, T, K, H]` into `pages` i32 `[P, T / page_size]`."""
    keys, values = pool
    flat = pages.reshape(-1)
    shape = (flat.shape[0], *keys.shape[1:])
    return (
        keys.at[flat].set(k.astype(keys.dtype).reshape(shape)),
        values.at[flat].set(v.astype(values.dtype).reshape(shape)),
    )


class PageAllocator:
    """Which page belongs to which slot. Pages are handed out and returned in O(1) each."""

    def __init__(self, pages: int, slots: int, pages_per_slot: int, page_size: int):
        self.page_size = page_size
        self.table = np.zeros((slots, pages_per_slot), np.int32)
        self._owned = np.zeros(slots, np.int64)
        self._free = list(range(pages - 1, 0, -1))

    @property
    def free_pages(self) -> int:
        return len(self._free)

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def reserve(self, slot: int, tokens: int) -> bool:
        """Gives `slot` pages for `tokens` tokens in all; False, and no change, if too few are."""
        missing = self.pages_for(tokens) - int(self._owned[slot])
        if missing > len(self._free):
            return False
        for _ in range(missing):
            self.table[slot, self._owned[slot]] = self._free.pop()
            self._owned[slot] += 1
        return True

    def release(self, slot: int) -> None:
        """Takes back every page of `slot`."""
        owned = int(self._owned[slot])
        self._free.extend(self.table[slot, :owned].tolist())
        self.table[slot] = 0
        self._owned[slot] = 0

    def pages_of(self, slots: Sequence[int], width: int) -> np.ndarray:
        """The first `width` pages of each slot, i32 `[len(slots), width]`; 0 where it has none."""
        out = np.zeros((len(slots), width), np.int32)
        columns = min(width, self.table.shape[1])
        out[:, :columns] = self.table[list(slots), :columns]
        return out
