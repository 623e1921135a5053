"""The paged KV cache: pools on the device, page bookkeeping on the host.

    table[slot] = [7, 3, 9, 0, ...]      page 7 holds the slot's tokens 0..ps-1, page 3 the next ps

A page belongs to one slot at a time. Page 0 belongs to nobody: idle slots and padding write there,
so no write needs a mask.
"""

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.models.config import ModelConfig

Pool = tuple[jax.Array, jax.Array]  # keys and values of one layer, each [K, pages, page_size, H]


def new_pools(
    cfg: ModelConfig,
    pages: int,
    page_size: int,
    dtype: jnp.dtype,
    sharding: jax.sharding.Sharding,
) -> tuple[Pool, ...]:
    """Zeroed pools, one a layer. Zeros, because 0 x NaN of an uninitialised page is NaN."""
    shape = (cfg.num_kv_heads, pages, page_size, cfg.head_dim)

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

    def write(x: jax.Array, new: jax.Array) -> jax.Array:
        # an index for every leading axis: a slice there would make XLA transpose the whole pool
        head = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
        at = x.at[head, page[None], offset[None]]
        return at.set(jnp.swapaxes(new, 0, 1).astype(x.dtype), mode="promise_in_bounds")

    return write(pool[0], k), write(pool[1], v)


def write_prompts(pool: Pool, k: jax.Array, v: jax.Array, pages: jax.Array) -> Pool:
    """Writes whole prompts: `k`, `v` `[P, T, K, H]` into `pages` i32 `[P, T / page_size]`."""

    def write(x: jax.Array, new: jax.Array) -> jax.Array:
        heads, _, size, width = x.shape
        paged = jnp.moveaxis(new, 2, 0).reshape(heads, -1, size, width)
        head = jnp.arange(heads, dtype=jnp.int32)[:, None]
        at = x.at[head, pages.reshape(1, -1)]
        return at.set(paged.astype(x.dtype), mode="promise_in_bounds")

    return write(pool[0], k), write(pool[1], v)


class PageAllocator:
    """Which page belongs to which slot. Pages are handed out and returned in O(1) each.

    Args:
        pages: of one shard, its page 0 included.
        slots: of all shards, shard after shard.
        pages_per_slot: width of the table.
        page_size: tokens in a page.
        shards: parts into which pool and slots are cut; page numbers are each shard's own.
    """

    def __init__(
        self, pages: int, slots: int, pages_per_slot: int, page_size: int, shards: int = 1
    ):
        self.page_size = page_size
        self.table = np.zeros((slots, pages_per_slot), np.int32)
        self._owned = np.zeros(slots, np.int64)
        self._per_shard = slots // shards
        self._free = [list(range(pages - 1, 0, -1)) for _ in range(shards)]
        self.pages = shards * (pages - 1)

    @property
    def used_pages(self) -> int:
        return self.pages - sum(map(len, self._free))

    def shard_of(self, slot: int) -> int:
        return slot // self._per_shard

    def free_pages(self, slot: int) -> int:
        """Free pages that `slot` could have."""
        return len(self._free[self.shard_of(slot)])

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def lacking(self, tokens: np.ndarray) -> list[int]:
        """The slots that need more pages for `tokens` i64 `[slots]` tokens in all."""
        return np.flatnonzero(-(-tokens // self.page_size) > self._owned).tolist()

    def reserve(self, slot: int, tokens: int) -> bool:
        """Gives `slot` pages for `tokens` tokens in all; False, and no change, if too few are."""
        free = self._free[self.shard_of(slot)]
        owned = int(self._owned[slot])
        missing = self.pages_for(tokens) - owned
        if missing > len(free):
            return False
        if missing > 0:
            self.table[slot, owned : owned + missing] = free[-missing:]
            del free[-missing:]
            self._owned[slot] += missing
        return True

    def release(self, slot: int) -> None:
        """Takes back every page of `slot`."""
        owned = int(self._owned[slot])
        self._free[self.shard_of(slot)].extend(self.table[slot, :owned].tolist())
        self.table[slot] = 0
        self._owned[slot] = 0

    def pages_of(self, slot: int, width: int) -> np.ndarray:
        """The first `width` pages of a slot, i32 `[width]`; 0 where it has none."""
        out = np.zeros(width, np.int32)
        columns = min(width, self.table.shape[1])
        out[:columns] = self.table[slot, :columns]
        return out
