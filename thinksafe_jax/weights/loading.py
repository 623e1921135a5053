"""From a Hugging Face checkpoint directory to parameters, each device's slice read on its own."""

import logging
import math
from concurrent.futures import Future, as_completed
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import ConfigError, InputError, listed
from thinksafe_jax.models import ModelConfig, Params, declare, map_params, stacked_shape, walk
from thinksafe_jax.terminal import Progress
from thinksafe_jax.weights.names import at, entries
from thinksafe_jax.weights.orbax import is_orbax_copy, restore_copy
from thinksafe_jax.weights.safetensors import TensorRef
from thinksafe_jax.weights.slices import Block, LoadStats, Reader, aligned_empty
from thinksafe_jax.weights.validate import check_totality

log = logging.getLogger(__name__)
_WORTH_A_BAR = 1 << 28  # bytes; smaller loads end before a bar could be read

Bounds = tuple[tuple[int, int], ...]  # (start, stop) for each axis


def load_params(
    directory: str | Path,
    cfg: ModelConfig,
    dtype: Any = jnp.bfloat16,
    shardings: Params | None = None,
    allow_nonfinite: bool = False,
    stats: LoadStats | None = None,
) -> Params:
    """Loads every parameter, cast to `dtype`.

    Args:
        directory: folder with model.safetensors, or shards and their index, or an Orbax copy made
            by `thinksafe convert`.
        cfg: the model's facts, from `load_config`.
        dtype: target dtype, or None to keep what the checkpoint stores (which may differ between
            parameters, but not between the layers of one parameter).
        shardings: a tree like the parameters' with a Sharding at each leaf; each device receives
            only its slice, read from the file as that slice. Default: this
            process's first device.
        allow_nonfinite: accept NaN and infinity in the weights.
        stats: filled with bytes and seconds where given.

    Raises:
        ConfigError: a sharding does not divide its parameter.
        InputError: missing, unknown or misshapen tensors (all listed together), a broken file, or
            NaN and infinity in the weights (in `dtype`).
    """
    directory = Path(directory)
    if is_orbax_copy(directory):
        return restore_copy(directory, cfg, dtype, shardings)
    _say_adapter_beside(directory)
    refs = check_totality(directory, cfg)
    parts: dict[tuple[str, ...], list[TensorRef]] = {}
    for entry in entries(cfg):
        parts.setdefault(entry.path, []).append(refs[entry.hf_name])
    leaves = _plan(cfg, parts, dtype, shardings)
    total = sum(leaf.bytes_to_read for leaf in leaves)
    bar = Progress("load", total >> 20, unit="MB") if total >= _WORTH_A_BAR else nullcontext()
    done: dict[tuple[str, ...], jax.Array] = {}
    with bar as progress, Reader(stats=stats or LoadStats()) as reader:
        # the largest first, so that the memory a transfer still holds is smallest at the end
        for leaf in sorted(leaves, key=lambda leaf: -leaf.bytes_to_read):
            done[leaf.path] = jax.block_until_ready(_load_leaf(reader, leaf, progress))
            if reader.nonfinite and not allow_nonfinite:
                raise InputError(
                    f"{directory}: NaN or infinity in {listed(sorted(reader.nonfinite))}; the "
                    "checkpoint is damaged. --allow-nonfinite (allow_nonfinite=True) loads it all "
                    "the same"
                )
    return map_params(lambda path, _: done[path], cfg)


def check_weights(directory: Path, cfg: ModelConfig) -> None:
    """Refuses what `load_params` would refuse, as far as headers show it.

    Raises:
        InputError: as `load_params`.
    """
    if not is_orbax_copy(directory):
        check_totality(directory, cfg)


def _say_adapter_beside(directory: Path) -> None:
    if (directory / "adapter_config.json").exists():
        log.warning(
            "%s: holds an adapter beside the weights, which transformers would fold in; the "
            "weights are taken as they are", directory,
        )  # fmt: skip


@dataclass(frozen=True)
class _Leaf:
    """One parameter to load: the tensors behind it and the slices that this process holds."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    tensors: list[TensorRef]
    sharding: jax.sharding.Sharding
    slices: frozenset[Bounds]

    @property
    def bytes_to_read(self) -> int:
        sizes = (math.prod(stop - start for start, stop in bounds) for bounds in self.slices)
        return sum(sizes) * self.tensors[0].dtype.itemsize


def _plan(
    cfg: ModelConfig,
    parts: dict[tuple[str, ...], list[TensorRef]],
    dtype: Any,
    shardings: Params | None,
) -> list[_Leaf]:
    dtypes = _leaf_dtypes(parts, dtype)
    leaves = []
    for path, param in walk(declare(cfg)):
        shape = stacked_shape(path, param, cfg)
        sharding = at(shardings, path) if shardings is not None else _default()
        try:
            indices = sharding.addressable_devices_indices_map(shape).values()
        except ValueError as error:
            raise ConfigError(
                f"parameter {'.'.join(path)} {list(shape)}: its sharding does not divide it "
                f"({error})"
            ) from None
        slices = frozenset(_bounds(index, shape) for index in indices)
        leaves.append(_Leaf(path, shape, dtypes[path], parts[path], sharding, slices))
    return leaves


def _default() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _leaf_dtypes(
    parts: dict[tuple[str, ...], list[TensorRef]], dtype: Any
) -> dict[tuple[str, ...], np.dtype]:
    if dtype is not None:
        return dict.fromkeys(parts, np.dtype(dtype))
    mixed = [
        f"{tensors[0].name} is {tensors[0].dtype}, {ref.name} is {ref.dtype}"
        for tensors in parts.values()
        for ref in tensors
        if ref.dtype != tensors[0].dtype
    ]
    if mixed:
        raise InputError(f"layers in several dtypes: {listed(mixed)}. Load them with one dtype")
    return {path: tensors[0].dtype for path, tensors in parts.items()}


def _load_leaf(reader: Reader, leaf: _Leaf, progress: Progress | None) -> jax.Array:
    """Each slice is read once, then handed to the devices that hold it."""
    buffers = {
        bounds: aligned_empty([stop - start for start, stop in bounds], leaf.dtype)
        for bounds in leaf.slices
    }
    reader.stats.bytes_made += sum(buffer.nbytes for buffer in buffers.values())
    for job in as_completed(_start_reads(reader, leaf, buffers)):
        job.result()
        if progress is not None:
            read = reader.stats.bytes_read
            rate = read / 1e9 / reader.elapsed
            progress.advance((read >> 20) - progress.done, gb_per_s=rate)
    return jax.make_array_from_callback(
        leaf.shape,
        leaf.sharding,
        lambda index: buffers[_bounds(index, leaf.shape)],
        dtype=leaf.dtype,
    )


def _start_reads(reader: Reader, leaf: _Leaf, buffers: dict[Bounds, np.ndarray]) -> list[Future]:
    slices = [(tuple(slice(*ends) for ends in bounds), out) for bounds, out in buffers.items()]
    if leaf.path[0] != "layers":
        blocks = [Block(index, out) for index, out in slices]
        return reader.start(leaf.tensors[0], leaf.shape, blocks)
    jobs = []
    for layer, ref in enumerate(leaf.tensors):
        blocks = [
            Block(index[1:], out[layer - index[0].start])
            for index, out in slices
            if index[0].start <= layer < index[0].stop
        ]
        jobs += reader.start(ref, leaf.shape[1:], blocks)
    return jobs


def _bounds(index: Any, shape: tuple[int, ...]) -> Bounds:
    return tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
