"""An all-reduce over all devices: does every link work, is the sum right, how fast is it."""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_REPEATS = 5
_MEGABYTES = {"cpu": 4}  # of each device; elsewhere 64, where latency no longer counts


@dataclass(frozen=True)
class Bandwidth:
    """One all-reduce.

    Attributes:
        right: whether this process has the right sum.
        megabytes: of each device.
        seconds: the best of some.
    """

    devices: int
    right: bool
    megabytes: int
    seconds: float

    @property
    def gb_per_second(self) -> float:
        """Through each device's links, in 10^9 bytes: a ring moves 2 (n - 1) / n of its data."""
        share = 2 * (self.devices - 1) / self.devices
        return share * self.megabytes * 2**20 / self.seconds / 1e9


def all_reduce() -> Bandwidth | None:
    """Sums an array of every device; None on one device. All processes call it."""
    devices = jax.devices()
    count, size = len(devices), _MEGABYTES.get(jax.default_backend(), 64)
    if count == 1:
        return None
    mesh = Mesh(np.array(devices), ("all",))
    apart, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("all",), ()))
    shape = (count, size * 2**20 // 4)

    def numbered(at: tuple[slice, ...] | None) -> np.ndarray:
        assert at is not None
        return np.full((1, shape[1]), 1.0 + (at[0].start or 0), np.float32)

    parts = jax.make_array_from_callback(shape, apart, numbered)
    total = jax.jit(lambda x: jnp.sum(x, axis=0), out_shardings=everywhere)
    reduced = jax.block_until_ready(total(parts))
    seconds = min(_timed(total, parts) for _ in range(_REPEATS))
    right = bool(np.all(np.asarray(reduced.addressable_data(0)) == count * (count + 1) / 2))
    return Bandwidth(count, right, size, seconds)


def _timed(work, argument: jax.Array) -> float:
    began = time.perf_counter()
    jax.block_until_ready(work(argument))
    return time.perf_counter() - began
