"""Blocks of tensors read from files by several threads, cast and checked while still in cache.

Positional reads, not memory maps: measured here, a first touch through a map runs at a sixth of the
speed, and its pages would count as read whole where a slice needs a part of them.
"""

import math
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from thinksafe_jax.errors import InputError
from thinksafe_jax.weights.safetensors import TensorRef

_CHUNK = 1 << 20  # bytes in one read: large enough for the disk, small enough for the cache
_CHECKED = 1 << 17  # elements looked at together: within the core's own cache
_JOB = 1 << 26  # bytes that one thread takes at a time
_SMALL_PIECE = 256  # bytes; below this, reading whole rows beats one call for each piece
_INFINITY = {  # its bits
    "float64": 0x7FF0 << 48,
    "float32": 0x7F80 << 16,
    "bfloat16": 0x7F80,
    "float16": 0x7C00,
}


@dataclass
class LoadStats:
    """What a load cost.

    Attributes:
        bytes_read: bytes taken from the files by this process.
        bytes_made: bytes of parameters that this process holds.
        seconds: wall time.
    """

    bytes_read: int = 0
    bytes_made: int = 0
    seconds: float = 0.0

    @property
    def gb_per_s(self) -> float:
        return self.bytes_read / max(self.seconds, 1e-9) / 1e9


@dataclass(frozen=True)
class Block:
    """The part `index` of a tensor seen in `shape`, and the array it goes to."""

    index: tuple[slice, ...]  # start and stop given, step 1
    out: np.ndarray


@dataclass
class Reader:
    """Reads blocks within a `with` block; `nonfinite` names the tensors that held NaN or infinity.

    Args:
        threads: how many read at once; default one for each core, 8 at most.
    """

    threads: int = 0
    stats: LoadStats = field(default_factory=LoadStats)
    nonfinite: set[str] = field(default_factory=set)

    def __enter__(self) -> "Reader":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._pool = ThreadPoolExecutor(self.threads or min(8, cores or 1), "read-weights")
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._scratch = threading.local()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for descriptor in self._files.values():
            os.close(descriptor)
        self.stats.seconds = self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since the block began."""
        return time.perf_counter() - self._began

    def start(
        self, ref: TensorRef, shape: tuple[int, ...], blocks: Sequence[Block]
    ) -> list[Future]:
        """Begins to fill the blocks of one tensor; each future ends when its part is filled."""
        jobs: list[Future] = []
        strided = []
        for block in blocks:
            if _run_axis(shape, block.index) == 0:
                jobs += self._start_run(ref, shape, block)
            else:
                strided.append(block)
        if strided:
            jobs.append(self._pool.submit(self._fill_strided, ref, shape, strided))
        return jobs

    def _start_run(self, ref: TensorRef, shape: tuple[int, ...], block: Block) -> Iterator[Future]:
        """One contiguous range of the file, in parts of `_JOB` bytes."""
        first = _first(shape, block.index)
        flat = block.out.reshape(-1)
        step = max(1, _JOB // ref.dtype.itemsize)
        for begin in range(0, flat.size, step):
            yield self._pool.submit(self._fill_run, ref, first + begin, flat[begin : begin + step])

    def _fill_run(self, ref: TensorRef, first: int, out: np.ndarray) -> None:
        """Elements `first...` of the tensor into the flat array `out`, cast and checked."""
        step = _CHUNK // ref.dtype.itemsize
        for begin in range(0, out.size, step):
            part = out[begin : begin + step]
            if part.dtype == ref.dtype:
                self._pread(ref, first + begin, part)
            else:
                raw = self._buffer(part.size * ref.dtype.itemsize).view(ref.dtype)
                self._pread(ref, first + begin, raw)
                with np.errstate(over="ignore"):  # an overflow shows as infinity, refused below
                    part[...] = raw
            self._check(ref, part)

    def _fill_strided(self, ref: TensorRef, shape: tuple[int, ...], blocks: list[Block]) -> None:
        """Blocks that are not contiguous; those that tile a box together are read as that box."""
        box = _around(blocks)
        tiled = _volume(box) == sum(block.out.size for block in blocks)
        for group in [blocks] if tiled else [[block] for block in blocks]:
            self._fill_from_box(ref, shape, _around(group), group)
        for block in blocks:
            self._check(ref, block.out.reshape(-1))

    def _fill_from_box(
        self, ref: TensorRef, shape: tuple[int, ...], box: tuple[slice, ...], blocks: list[Block]
    ) -> None:
        """Reads a box some rows at a time, and hands each block its part."""
        size = ref.dtype.itemsize
        if _volume(box[_run_axis(shape, box) :]) * size < _SMALL_PIECE:
            box = (box[0], *(slice(0, full) for full in shape[1:]))
        row = _volume(box[1:])
        step = max(1, _CHUNK // (row * size))
        for begin in range(box[0].start, box[0].stop, step):
            end = min(begin + step, box[0].stop)
            raw = self._buffer((end - begin) * row * size).view(ref.dtype)
            part = (slice(begin, end), *box[1:])
            self._read_runs(ref, shape, part, raw)
            rows = raw.reshape([s.stop - s.start for s in part])
            for block in blocks:
                a, b = max(begin, block.index[0].start), min(end, block.index[0].stop)
                if a < b:
                    inner = (
                        slice(s.start - o.start, s.stop - o.start)
                        for s, o in zip(block.index[1:], box[1:], strict=True)
                    )
                    first = block.index[0].start
                    block.out[a - first : b - first] = rows[(slice(a - begin, b - begin), *inner)]

    def _read_runs(
        self, ref: TensorRef, shape: tuple[int, ...], index: tuple[slice, ...], out: np.ndarray
    ) -> None:
        """A box of the tensor into the flat array `out`, one read for each contiguous run."""
        axis, strides = _run_axis(shape, index), _strides(shape)
        first, run = _first(shape, index), _volume(index[axis:])
        outer = [s.stop - s.start for s in index[:axis]]
        for number, position in enumerate(np.ndindex(*outer)):
            offset = sum(i * stride for i, stride in zip(position, strides, strict=False))
            self._pread(ref, first + offset, out[number * run : (number + 1) * run])

    def _pread(self, ref: TensorRef, first: int, out: np.ndarray) -> None:
        """Raw elements of the tensor into `out`.

        Raises:
            InputError: the file ends before the tensor does.
        """
        view = out.view(np.uint8).data
        done, offset = 0, ref.start + first * ref.dtype.itemsize
        while done < len(view):
            count = os.preadv(self._descriptor(ref.file), [view[done:]], offset + done)
            if count == 0:
                raise InputError(f"{ref.file}: ends within {ref.name}; it changed while being read")
            done += count
        with self._lock:
            self.stats.bytes_read += done

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._files:
                self._files[file] = os.open(file, os.O_RDONLY)
            return self._files[file]

    def _buffer(self, size: int) -> np.ndarray:
        if getattr(self._scratch, "bytes", np.empty(0)).size < size:
            self._scratch.bytes = np.empty(max(size, _CHUNK), np.uint8)
        return self._scratch.bytes[:size]

    def _check(self, ref: TensorRef, flat: np.ndarray) -> None:
        if not all_finite(flat):
            with self._lock:
                self.nonfinite.add(f"{ref.name} ({ref.file.name})")


def aligned_empty(shape: Sequence[int], dtype: Any) -> Shaped[np.ndarray, "..."]:
    """An empty array that begins on a memory page, which JAX on the CPU takes over without a copy.

    Mapped by itself, on small pages: huge ones halve a load where memory is at hand (0.6 s instead
    of 1.2 s for 3 GB), but more than double it (4.0 s instead of 1.6 s) in a virtual machine whose
    host takes free memory back, because what it takes back are just the huge ones.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8, size).view(dtype).reshape(shape)


def all_finite(flat: Float[np.ndarray, " N"]) -> bool:
    """Whether a flat float array holds neither NaN nor infinity.

    Bits of one sign are ordered as integers, so infinity and NaN lie above every number: at the
    top of the signed integers without the sign bit, at the top of the unsigned ones with it.
    """
    size = 8 * flat.dtype.itemsize
    infinity = _INFINITY[flat.dtype.name]
    for begin in range(0, flat.size, _CHECKED):
        part = flat[begin : begin + _CHECKED]
        if part.view(f"i{size // 8}").max() >= infinity:
            return False
        if part.view(f"u{size // 8}").max() >= infinity | 1 << (size - 1):
            return False
    return True


def _run_axis(shape: tuple[int, ...], index: tuple[slice, ...]) -> int:
    """The first axis from which on the block is one run of memory; 0: all of it is."""
    axis = len(shape)
    while axis > 0 and (index[axis - 1].start, index[axis - 1].stop) == (0, shape[axis - 1]):
        axis -= 1
    axis = max(0, axis - 1)  # the axis of the last cut is itself contiguous
    while axis > 0 and index[axis - 1].stop - index[axis - 1].start == 1:
        axis -= 1  # axes of size one before it add nothing to jump over
    return axis


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _first(shape: tuple[int, ...], index: tuple[slice, ...]) -> int:
    """Where in the flat tensor the block begins."""
    return sum(s.start * stride for s, stride in zip(index, _strides(shape), strict=True))


def _volume(index: Sequence[slice]) -> int:
    return math.prod(s.stop - s.start for s in index)


def _around(blocks: Sequence[Block]) -> tuple[slice, ...]:
    """The smallest box around the blocks."""
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis))
        for axis in zip(*(block.index for block in blocks), strict=True)
    )
