"""sha256 of every file of a folder: Orbax restores a flipped byte without a word, this does not."""

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError, listed, quoted, type_and_line
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.storage import atomic_write, file_sha256
from thinksafe_jax.weights.links import is_within

NAME = "manifest.json"


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Hashes every file under `folder` into manifest.json, beside `facts`."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = [name for name in names if name != NAME]
    files = {
        name: {"sha256": digest, "bytes": (folder / name).stat().st_size}
        for name, digest in zip(names, _digests(folder, names), strict=True)
    }
    atomic_write(folder / NAME, json.dumps({**facts, "files": files}, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as written.

    Raises:
        InputError: it is missing or damaged, or names files outside of the folder.
    """
    file = folder / NAME
    try:
        content = load_unique(file.read_text(encoding="utf-8"), nan=True)
        if outside := [name for name in content["files"] if not is_within(name)]:
            raise InputError(f"{file}: {quoted(outside[0])} lies outside of the folder; refused")
        complete = all({"sha256", "bytes"} <= set(facts) for facts in content["files"].values())
        if not complete:
            raise KeyError("sha256, bytes")
    except FileNotFoundError:
        raise InputError(f"{folder}: has no {NAME}, so it was never finished") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: damaged ({type_and_line(error)})") from None
    return content


def check_files(folder: Path, files: dict[str, dict[str, Any]], names: Iterable[str]) -> None:
    """Compares the named files with the manifest.

    Raises:
        InputError: every file that is missing, has another size or another content.
    """
    names, problems = list(names), []
    for name in names:
        file, size = folder / name, files[name]["bytes"]
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size} bytes instead of {size}")
    if not problems:
        digests = zip(names, _digests(folder, names), strict=True)
        problems = [
            f"sha256 mismatch in {name}" for name, sha in digests if sha != files[name]["sha256"]
        ]
    if problems:
        raise InputError(f"{folder}: {listed(problems)}")


def _digests(folder: Path, names: list[str]) -> list[str]:
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda name: file_sha256(folder / name), names))
