"""How large the KV pool may be."""

import os

import jax
import jax.numpy as jnp

from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.sampling.cache import kv_bytes_per_token

_DEVICE_SHARE = 0.85  # of the device memory that is free once the weights are there
_HOST_SHARE = 0.25  # of the host memory that is free, where the device is the host


def default_pool_tokens(cfg: ModelConfig, wanted: int, dtype: jnp.dtype) -> int:
    """Tokens that the pool holds: `wanted`, or as many as free memory allows.

    The pool is never larger than every slot at its full length.
    """
    return min(wanted, int(_free_bytes() // kv_bytes_per_token(cfg, dtype)))


def _free_bytes() -> float:
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return _DEVICE_SHARE * (stats["bytes_limit"] - stats["bytes_in_use"])
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _HOST_SHARE * pages
