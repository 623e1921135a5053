"""sha256 of files and of values: has anything that went in changed?"""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from thinksafe_jax.storage.jsonl import plain


def file_sha256(file: Path) -> str:
    """sha256 of a file's content, in hexadecimal; read in blocks, whatever its size."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(*parts: Any) -> str:
    """sha256 over values and files, for "has anything that went in changed?".

    Args:
        parts: numbers, text, lists, mappings, dataclasses; a Path stands for the content of its
            file, or of every file beneath its folder (names included, hidden ones left out).
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            _add_files(digest, part)
        else:
            digest.update(json.dumps(plain(part), sort_keys=True).encode())
        digest.update(b"\x00")
    return digest.hexdigest()


def _add_files(digest: Any, path: Path) -> None:
    if not path.exists():
        digest.update(b"absent")
        return
    files = (
        {"": path}
        if path.is_file()
        else {p.relative_to(path).as_posix(): p for p in path.rglob("*")}
    )
    for name, file in sorted(files.items()):
        if file.is_file() and not any(part.startswith(".") for part in name.split("/")):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\x00")
            digest.update(bytes.fromhex(file_sha256(file)))


def now() -> str:
    """Local time with its offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
