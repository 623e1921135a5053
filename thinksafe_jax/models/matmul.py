"""Matmuls of activations with kernels `[out..., in...]`, one implementation for each use.

The kernel is read once and is far larger than the activations in decode, so decode is bound by
memory bandwidth: any matmul that reaches it is as good as any other.
"""

import math
import os
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

# Rows up to which `few_rows_matmul` is the faster one on the CPU, and gives a row the same bits
# beside any others (on two cores of a Zen 5 it does so up to 24 at most: docs/sampler.md, "Beside
# OpenVINO"). From JAX 0.11 on XLA:CPU takes another kernel for another number of rows in a
# batched matmul, though not in its own, which from 2 rows on always gives a row the same bits.
FEW_ROWS = 64 if jax.__version_info__ < (0, 11) else 0


@runtime_checkable
class Matmul(Protocol):
    """`x` `[..., in...]` with `kernel` `[out..., in...]`, whose last `in_ndim` axes are `in`.

    Returns `[..., out...]`, in `dtype` where given.
    """

    def __call__(
        self, x: jax.Array, kernel: jax.Array, in_ndim: int = 1, dtype: jnp.dtype | None = None
    ) -> jax.Array: ...


def plain_matmul(
    x: jax.Array, kernel: jax.Array, in_ndim: int = 1, dtype: jnp.dtype | None = None
) -> jax.Array:
    """The compiler's own choice; see `Matmul`."""
    x_axes = tuple(range(x.ndim - in_ndim, x.ndim))
    kernel_axes = tuple(range(kernel.ndim - in_ndim, kernel.ndim))
    return jnp.tensordot(x, kernel, (x_axes, kernel_axes), preferred_element_type=dtype)


def few_rows_matmul(
    x: jax.Array, kernel: jax.Array, in_ndim: int = 1, dtype: jnp.dtype | None = None
) -> jax.Array:
    """For a few rows on the CPU; see `Matmul`.

    XLA:CPU hands a matmul of 2 to 64 rows to Eigen, which splits it badly over the threads and
    packs the kernel: 2.7 to 4.4 times the time that reading the kernel takes. With the kernel on
    the left, cut into one part for each core, a batched matmul runs one plain matmul a core: 1.4
    times at 4 rows, 1.7 at 8, 2.5 at 32 (D 1024, F 3072, two cores).
    """
    inside = kernel.shape[kernel.ndim - in_ndim :]
    outside = kernel.shape[: kernel.ndim - in_ndim]
    rows = x.shape[: x.ndim - in_ndim]
    width = math.prod(outside)
    parts = math.gcd(width, _cores())
    count, depth = math.prod(rows), math.prod(inside)
    kernel_parts = kernel.reshape(parts, width // parts, depth)
    x_parts = jnp.broadcast_to(x.reshape(1, count, depth), (parts, count, depth))
    y = jax.lax.dot_general(
        kernel_parts, x_parts, (((2,), (2,)), ((0,), (0,))), preferred_element_type=dtype
    )
    return y.reshape(width, -1).T.reshape(*rows, *outside)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
