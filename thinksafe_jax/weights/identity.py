"""Which model a folder holds, told by its files: a path that stays may get another content.

    config.json         sha256:9f2c…   small files whole
    model.safetensors   blocks:51d0…   large ones by header, and of each tensor 4 KB in every 4 MB

What makes another model of one (training, merging, casting, another checkpoint) changes the header
or whole tensors, and of a tensor at least the first and the last block are looked at. A change of a
few rows of a large tensor can hide between the blocks: `full` sees that as well, and reads it all.
"""

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from thinksafe_jax.storage import file_sha256
from thinksafe_jax.weights.orbax import is_orbax_copy
from thinksafe_jax.weights.validate import SECOND_COPY

# what decides what a model says; a card or a trainer's state does not
_DECISIVE = (
    "*config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "*token*.json",
    "vocab.*", "merges.txt", "*.model", "*.jinja", "chat_template*",
)  # fmt: skip
_WHOLE = 1 << 26  # bytes; files up to this are read whole
_BLOCK, _STRIDE = 1 << 12, 1 << 22  # bytes: of a block, and from one to the next
_FULL = " (all bytes)"  # ends the key of a full digest beside the one of the blocks


def fingerprint(folder: Path, *, full: bool | None = None) -> dict[str, str]:
    """{file: digest} of every file of a checkpoint or adapter that decides what it says.

    Args:
        folder: a Hugging Face checkpoint, an Orbax copy (whose manifest.json holds the sha256 of
            every array's files, compared when it is loaded) or a PEFT adapter.
        full: give the sha256 of large files, too; default: whether THINKSAFE_FINGERPRINT is "full".
    """
    if full is None:
        full = os.environ.get("THINKSAFE_FINGERPRINT") == "full"
    files = sorted(filter(_is_decisive, folder.iterdir()))
    if is_orbax_copy(folder):
        files.append(folder / "manifest.json")
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        digests = dict(zip([f.name for f in files], pool.map(_digest, files), strict=True))
        large = [f for f in files if digests[f.name].startswith("blocks:")] if full else []
        whole = zip([f.name + _FULL for f in large], pool.map(_whole_digest, large), strict=True)
        return {**digests, **dict(whole)}


def changed_files(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two fingerprints, as "FILE has changed", "FILE is gone", "FILE is new".

    A full digest counts where both have one. A second copy of the weights, which nothing reads and
    which is not fetched any more, does not count.
    """
    changed = []
    for name in sorted({**then, **now}):
        file = name.removesuffix(_FULL)
        if fnmatch.fnmatch(file, SECOND_COPY):
            continue
        if file not in then:
            changed.append(f"{file} is new")
        elif file not in now:
            changed.append(f"{file} is gone")
        elif name in then and name in now and then[name] != now[name]:
            changed.append(f"{file} has changed")
    return list(dict.fromkeys(changed))


def _is_decisive(file: Path) -> bool:
    return file.is_file() and any(fnmatch.fnmatch(file.name, pattern) for pattern in _DECISIVE)


def _digest(file: Path) -> str:
    large = file.stat().st_size > _WHOLE
    return f"blocks:{_blocks_digest(file)}" if large else _whole_digest(file)


def _whole_digest(file: Path) -> str:
    return f"sha256:{file_sha256(file)}"


def _blocks_digest(file: Path) -> str:
    """sha256 over size, header and sampled blocks of a safetensors file."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        header = stream.read(min(int.from_bytes(stream.read(8), "little"), size))
        digest.update(header)
        for offset in _offsets(_tensors(header, size) or [(0, size)]):
            digest.update(os.pread(stream.fileno(), _BLOCK, offset))
    return digest.hexdigest()


def _tensors(header: bytes, size: int) -> list[tuple[int, int]]:
    """[start, end) of each tensor in a file of `size` bytes.

    None of a header that makes no sense: to refuse it is for the loader.
    """
    base = 8 + len(header)
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        offsets = [tensor["data_offsets"] for tensor in tensors.values()]
        spans = [(base + int(begin), base + int(end)) for begin, end in offsets]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return []
    return spans if all(base <= begin <= end <= size for begin, end in spans) else []


def _offsets(spans: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Where blocks begin: at the start of each span, every `_STRIDE` bytes, and before its end."""
    for begin, end in spans:
        yield from range(begin, end, _STRIDE)
        yield max(begin, end - _BLOCK)
