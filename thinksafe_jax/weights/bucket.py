"""Fetching a checkpoint from a bucket (gs://, s3://, ...) into a local cache, through fsspec."""

import fnmatch
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.machine import cache_folder
from thinksafe_jax.storage import (
    free_bytes,
    identity,
    list_objects,
    open_store,
    storage_errors,
    store_errors,
)
from thinksafe_jax.weights.hugging_face import PATTERNS, WEIGHTS

_log = logging.getLogger(__name__)


def fetch_headers(url: str) -> tuple[Path, int]:
    """The folder that `fetch` has made, or one without the weights, and their bytes to fetch.

    Raises:
        InputError, EnvironmentFault: as `fetch`.
    """
    files, filesystem = _listing(url)
    name = _copy_name(url, files)
    if target := cached_copy(name):
        return target, 0
    target = cache_folder() / f"{name}-headers"
    heavy = {file for file, _ in files if fnmatch.fnmatch(file, WEIGHTS) or "/" in file}
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for file, info in files:
            if file not in heavy and not (target / file).exists():
                partial = target / f".{file}.{os.getpid()}.partial"
                filesystem.get_file(info["name"], str(partial))
                partial.replace(target / file)
    return target, sum(info["size"] for file, info in files if file in heavy)


def fetch(url: str) -> Path:
    """A local copy of the folder `url`: weights and tokenizer files, or a whole Orbax copy.

    The copy is named by the files' names, sizes and identities in the bucket: what has not
    changed is not fetched again, and what has gets another folder.

    Raises:
        InputError: no checkpoint at `url`, or a kind of path that fsspec does not know.
        EnvironmentFault: the package for it is missing, access is refused, or the disk is full.
    """
    files, filesystem = _listing(url)
    copy = _copy_name(url, files)
    if target := cached_copy(copy):
        return target
    target = cache_folder() / copy
    needed = sum(info["size"] for _, info in files)
    if free_bytes(target) < needed:
        raise EnvironmentFault(
            f"{target}: {url} needs {needed:,} bytes, {free_bytes(target):,} are free; set "
            "THINKSAFE_CACHE to a larger disk"
        )
    _log.info("fetching %s (%.2f GB) to %s", url, needed / 1e9, target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with storage_errors(target):
        try:
            for name, info in files:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                filesystem.get_file(info["name"], str(partial / name))
                if (partial / name).stat().st_size != info["size"]:
                    raise EnvironmentFault(f"{url}/{name}: arrived incomplete; try again")
            if not target.is_dir():  # another process of this host may have been faster
                partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _copy_name(url: str, files: list[tuple[str, dict[str, Any]]]) -> str:
    facts = {name: identity(info) for name, info in files}
    return hashlib.sha256(json.dumps([url, facts], sort_keys=True).encode()).hexdigest()[:40]


def cached_copy(name: str) -> Path | None:
    """The folder that `fetch` has made under this name; None where there is none."""
    folder = cache_folder() / name
    return folder if folder.is_dir() else None


def _listing(url: str) -> tuple[list[tuple[str, dict[str, Any]]], Any]:
    filesystem, root = open_store(url)
    with store_errors(url):
        objects = list_objects(filesystem, root)
    files = [(name, info) for name, info in sorted(objects.items()) if _wanted(name)]
    if not any(name == "config.json" for name, _ in files):
        raise InputError(f"{url}: no checkpoint there (no config.json)")
    return files, filesystem


def _wanted(name: str) -> bool:
    if ".." in name.split("/"):
        return False
    top = "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)
    return top or name.startswith("params/")
