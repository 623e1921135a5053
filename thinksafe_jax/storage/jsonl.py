"""JSON lines whose last one may have been torn by a kill."""

import dataclasses
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from thinksafe_jax.json_files import load_unique

log = logging.getLogger(__name__)
_BLOCK = 1 << 20
_MARK = b"\xef\xbb\xbf"
_loads = partial(load_unique, nan=True)
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode


def to_line(row: dict[str, Any]) -> bytes:
    """One row as an ASCII line: no character of a text, lone surrogates too, can break it."""
    try:  # most rows are plain already
        text = _encode(row)
    except (TypeError, ValueError):
        text = _encode(plain(row))
    return text.encode("ascii") + b"\n"


def plain(value: Any) -> Any:
    """Values that strict JSON has: arrays of one number become it, NaN and infinities null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in _recorded(value)}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if callable(to_list := getattr(value, "tolist", None)):  # numpy and jax, of any shape
        return plain(to_list())
    raise TypeError(f"{type(value).__name__} cannot be written to a JSON line: {value!r}")


def _recorded(value: Any) -> Iterator[dataclasses.Field[Any]]:
    """The fields of a dataclass, but for those of a later version that say nothing new.

    A field marked `later` whose value is its default is left out, so that the hash of a recipe is
    the one that an earlier version, which had no such field, wrote into a run directory.
    """
    for item in dataclasses.fields(value):
        factory = item.default_factory
        default = item.default if factory is dataclasses.MISSING else factory()
        if not (item.metadata.get("later") and getattr(value, item.name) == default):
            yield item


def sound_length(path: Path) -> int:
    """Bytes of a file up to the end of its last complete, readable line.

    A line is complete with its newline; one that ends so but cannot be read (zeros left by a power
    cut) counts as torn as well when it is the last.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        end = _after_last_newline(file, size)
        start = _after_last_newline(file, end - 1) if end else 0
        file.seek(start)
        last = file.read(end - start)
    if last.strip() and _object(last, json.loads) is None:
        return start
    return end


def drop_torn_tail(path: Path) -> int:
    """Cut a torn last line off a file; returns the number of bytes removed."""
    if not path.exists():
        return 0
    length, size = sound_length(path), path.stat().st_size
    if length < size:
        with path.open("r+b") as file:
            file.truncate(length)
            os.fsync(file.fileno())
        log.warning("%s: dropped a torn last line (%d bytes); it is redone", path, size - length)
    return size - length


def parse(line: bytes) -> dict[str, Any] | None:
    """The object on a line, a byte order mark skipped.

    None where there is none, or where an object has a key twice.
    """
    return _object(line, _loads)


def _object(line: bytes, loads: Callable[[str], Any]) -> dict[str, Any] | None:
    try:
        # the codec for a mark is slow, and marks are rare
        row = loads(line.decode("utf-8-sig" if line.startswith(_MARK) else "utf-8"))
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    return row if isinstance(row, dict) else None


def _after_last_newline(file: Any, end: int) -> int:
    """Offset just behind the last newline before `end`; 0 where there is none."""
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
