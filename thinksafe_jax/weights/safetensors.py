"""Reading and writing safetensors as streams: a header, then slices of a memory map.

Only the pages behind a requested slice are read, so a host touches the bytes its devices need.
"""

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from thinksafe_jax.errors import InputError, first_line, quoted, shortened
from thinksafe_jax.json_files import load_unique

_DTYPES: dict[str, Any] = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_BEHIND = 1 << 26  # bytes written before the disk is asked to begin
_MAX_HEADER = 100_000_000  # bytes, the format's own limit


@dataclass(frozen=True)
class TensorRef:
    """Where one tensor lies in a file; nothing is read until `read`."""

    file: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file

    @cached_property
    def array(self) -> np.ndarray:
        """A read-only memory map of the tensor."""
        return np.memmap(self.file, self.dtype, "r", self.start, self.shape or (1,)).reshape(
            self.shape
        )

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: Path) -> dict[str, TensorRef]:
    """The tensors of one file, checked against its size.

    Raises:
        InputError: the file is no complete safetensors file; the message says what it is instead.
    """
    if not file.is_file():
        raise InputError(f"{file}: is no regular file; put the weights in its place")
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(64)
        _refuse_impostors(file, first, size)
        length = int.from_bytes(first[:8], "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise InputError(
                f"{file}: header of {length} bytes in a file of {size}; it is truncated or not "
                "safetensors. Download it again"
            )
        stream.seek(8)
        raw = stream.read(length)
    try:
        header = load_unique(raw.decode("utf-8"))
        header.pop("__metadata__", None)
        refs = {name: _ref(file, name, info, 8 + length) for name, info in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: unreadable safetensors header ({first_line(error)})") from None
    _check_layout(file, refs, 8 + length, size)
    return refs


def _refuse_impostors(file: Path, first: bytes, size: int) -> None:
    if size < 10:
        raise InputError(f"{file}: {size} bytes, an empty file. Download it again")
    if first.startswith(b"version https://git-lfs"):
        raise InputError(f"{file}: a Git LFS pointer, not the weights. Run `git lfs pull` there")
    if first.lstrip().lower().startswith((b"<html", b"<!doctype")):
        raise InputError(
            f"{file}: an HTML page, not the weights; a login page was saved. Log in, accept the "
            "licence and download it again"
        )


def _ref(file: Path, name: str, info: dict[str, Any], base: int) -> TensorRef:
    if info["dtype"] not in _DTYPES:
        raise InputError(
            f"{file}: {shortened(name, 200)} has dtype {shortened(str(info['dtype']))}; supported: "
            f"{', '.join(_DTYPES)} (quantised checkpoints must be dequantised first)"
        )
    dtype = np.dtype(_DTYPES[info["dtype"]])
    begin, end = info["data_offsets"]
    if not all(type(size) is int for size in (begin, end, *info["shape"])):
        raise ValueError(
            f"offsets and shape of {shortened(name, 200)} are whole numbers in a sound file"
        )
    ref = TensorRef(file, name, dtype, tuple(info["shape"]), base + begin)
    if end - begin != ref.nbytes:
        raise InputError(
            f"{file}: {shortened(name, 200)} {quoted(list(ref.shape))} {info['dtype']} needs "
            f"{quoted(ref.nbytes)} bytes, the header gives it {quoted(end - begin)}"
        )
    return ref


def _check_layout(file: Path, refs: dict[str, TensorRef], base: int, size: int) -> None:
    position = base
    for ref in sorted(refs.values(), key=lambda ref: (ref.start, ref.nbytes)):
        if ref.start != position:
            raise InputError(
                f"{file}: {shortened(ref.name, 200)} overlaps its neighbour or leaves a hole"
            )
        position += ref.nbytes
    if position != size:
        raise InputError(
            f"{file}: {size} bytes, its header promises {position}; it is truncated or has a "
            "foreign tail. Download it again"
        )


@dataclass(frozen=True)
class TensorSource:
    """One tensor to write; `read()` is called when its turn comes, so memory holds one."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write_file(file: Path, tensors: Iterable[TensorSource]) -> None:
    """Writes one safetensors file, tensor by tensor, and fsyncs it."""
    write_unsynced(file, tensors)
    sync_file(file)


def sync_file(file: Path) -> None:
    """Returns when the file's content is on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def write_unsynced(file: Path, tensors: Iterable[TensorSource]) -> None:
    """`write_file` without its fsync, the disk already at work behind the writing."""
    tensors = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for t in tensors:
        header[t.name] = {
            "dtype": _NAMES[np.dtype(t.dtype)],
            "shape": list(t.shape),
            "data_offsets": [position, position + t.nbytes],
        }
        position += t.nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the format keeps tensors aligned to 8 bytes
    with file.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        begun = 0
        for t in tensors:
            value = np.ascontiguousarray(t.read(), dtype=t.dtype)
            assert value.shape == t.shape, (t.name, value.shape, t.shape)
            stream.write(value.reshape(-1).view(np.uint8).data)
            if stream.tell() - begun >= _BEHIND:
                _start_writeback(stream.fileno(), begun, stream.tell() - begun)
                begun = stream.tell()


def _start_writeback(descriptor: int, offset: int, size: int) -> None:
    """Linux answers "not needed any more" for pages not yet written by beginning to write them."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)
