"""How large the KV pool may be."""

from typing import Any

import jax.numpy as jnp

from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.runs.machine import free_memory
from thinksafe_jax.sampling.cache import kv_bytes_per_token

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
