"""The paged KV cache: pools on the device, page bookkeeping on the host.

    table[slot] = [7, 3, 9, 0, ...]      page 7 holds the slot's tokens 0..ps-1, page 3 the next ps

A page belongs to one slot at a time. Page 0 belongs to nobody: idle slots and padding write there,
so no write needs a mask.
"""

from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.machine import free_memory
from thinksafe_jax.models import ModelConfig

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


_DEVICE_SHARE = 0.85  # of the device memory that is free once the weights are there


_HOST_SHARE = 0.25  # of the host memory that is free, where the device is the host


def default_pool_tokens(
    cfg: ModelConfig, wanted: int, dtype: jnp.dtype, device: Any, split: int, pools: int
) -> int:
    """Tokens that one pool holds: `wanted`, or as many as free memory allows.

    Args:
        wanted: every slot at its full length; the pool is never larger.
        device: one of those that hold the pool.
        split: devices over which the heads of one token are cut.
        pools: pools that share the host's memory, where devices have none of their own.
    """
    per_device = kv_bytes_per_token(cfg, dtype) / split
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        free = _DEVICE_SHARE * (stats["bytes_limit"] - stats["bytes_in_use"])
        return min(wanted, int(free // per_device))
    free = free_memory()
    if free is None:
        return wanted
    return min(wanted, int(_HOST_SHARE * free / pools // kv_bytes_per_token(cfg, dtype)))
