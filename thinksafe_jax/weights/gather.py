"""One checkpoint written by several processes: gathered tensor by tensor, its success agreed on."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.hosts import current


def on_host(leaf: Any, layer: int | None = None) -> Shaped[np.ndarray, "..."]:
    """The array, or one layer of it, in this process's memory.

    Where the array spans processes this is a collective: all must call it, in the same order.
    """
    if not isinstance(leaf, jax.Array) or _in_host_memory(leaf):
        whole = np.asarray(leaf)  # a view: each layer by itself would be a copy
        return whole if layer is None else whole[layer]
    if leaf.is_fully_addressable:
        return np.asarray(leaf if layer is None else leaf[layer])
    assert isinstance(leaf.sharding, NamedSharding), leaf.sharding
    replicate = _replicator(leaf.sharding.mesh)
    whole = replicate(leaf) if layer is None else replicate(leaf, np.int32(layer))
    return np.asarray(whole.addressable_data(0))


def _in_host_memory(leaf: jax.Array) -> bool:
    return len(leaf.devices()) == 1 and next(iter(leaf.devices())).platform == "cpu"


@lru_cache(maxsize=4)
def _replicator(mesh: Mesh) -> Callable[..., jax.Array]:
    """(array, optional layer) -> the same on every device."""
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda x, *layer: x[layer[0]] if layer else x, out_shardings=replicated)


@contextmanager
def written_by_first(out: Path, arrays: Iterable[np.ndarray]) -> Iterator[Iterator[np.ndarray]]:
    """Process 0 writes `out` within the block, from `arrays`; the others only help to gather them.

    Args:
        arrays: made by `on_host`, so that each step is a collective where the weights span
            processes.

    Yields:
        The same arrays for process 0, none for the others, whose block should write nothing.

    Raises:
        EnvironmentFault: on the others, where process 0 failed.
    """
    if jax.process_count() == 1:
        yield iter(arrays)
        return
    gathered, first = iter(arrays), jax.process_index() == 0
    done = False
    try:
        yield gathered if first else iter(())
        done = True
    finally:
        for _ in gathered:  # nobody is left waiting, whether the disk was full or not
            pass
        agree(done, out)


def agree(done: bool, out: Path) -> None:
    """Every process calls this with its own outcome.

    Raises:
        EnvironmentFault: this one did well, another did not.
    """
    outcomes = current().gather(f"written: {out.name}", done)
    failed = [index for index, ok in enumerate(outcomes) if not ok]
    if failed and done:
        names = ", ".join(map(str, failed))
        raise EnvironmentFault(f"{out}: not written, process {names} failed; its message says why")
