"""Fetching a checkpoint from a bucket (gs://, s3://, ...) into a local cache, through fsspec.

A copy is made aside, file by file, and takes its place when all are there. What a broken connection
or a kill has left of it counts: the next try fetches the files that are missing.
"""

import fcntl
import fnmatch
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.machine import cache_folder
from thinksafe_jax.storage import (
    flock,
    free_bytes,
    full_disk_errors,
    identity,
    list_objects,
    open_store,
    storage_errors,
    store_errors,
)
from thinksafe_jax.weights.hugging_face import PATTERNS, WEIGHTS
from thinksafe_jax.weights.validate import SECOND_COPY

_log = logging.getLogger(__name__)
_THREADS = 4  # files at a time: one connection does not fill the network of a host
Files = Mapping[str, Mapping[str, Any]]  # {name below the folder: what the store says of it}


def fetch_headers(url: str) -> tuple[Path, int]:
    """The folder that `fetch` has made, or one without the weights, and their bytes to fetch.

    Raises:
        InputError, EnvironmentFault: as `fetch`.
    """
    files, store = _listing(url)
    name = _copy_name(url, files)
    if target := cached_copy(name):
        return target, 0
    target = cache_folder() / f"{name}-headers"
    heavy = {n: i for n, i in files.items() if fnmatch.fnmatch(n, WEIGHTS) or "/" in n}
    light = {n: i for n, i in files.items() if n not in heavy}
    with _alone(target):
        _fetch(url, store, target, _missing(target, light))
    return target, sum(info["size"] for info in _needed(heavy).values())


def fetch(url: str) -> Path:
    """A local copy of the folder `url`: weights and tokenizer files, or a whole Orbax copy.

    The copy is named by the files' names, sizes and identities in the bucket: what has not
    changed is not fetched again, and what has gets another folder.

    Raises:
        InputError: no checkpoint at `url`, or a kind of path that fsspec does not know.
        EnvironmentFault: the package for it is missing, access is refused, the connection breaks,
            or the disk is full; the files that are there are not fetched again.
    """
    files, store = _listing(url)
    copy = _copy_name(url, files)
    if target := cached_copy(copy):
        return target
    target = cache_folder() / copy
    with _alone(target):
        if target.is_dir():  # another process of this host was faster
            return target
        partial = target.with_name(f".{copy}.partial")
        missing = _missing(partial, _needed(files))
        size = sum(info["size"] for info in missing.values())
        if free_bytes(target) < size:
            raise EnvironmentFault(
                f"{target}: {url} needs {size:,} bytes, {free_bytes(target):,} are free; set "
                "THINKSAFE_CACHE to a larger disk"
            )
        _log.info("fetching %s (%.2f GB) to %s", url, size / 1e9, target)
        _fetch(url, store, partial, missing)
        with storage_errors(target):
            partial.rename(target)
    return target


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time works on a folder of the cache; the next finds what it has fetched."""
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{folder.name}.lock").open("a")
    with lock:
        flock(lock, fcntl.LOCK_EX)
        yield


def _needed(files: Files) -> Files:
    return {n: info for n, info in files.items() if not fnmatch.fnmatch(n, SECOND_COPY)}


def _missing(folder: Path, files: Files) -> Files:
    """Those that are not in the folder: a file is there whole or not at all."""
    return {name: info for name, info in files.items() if not (folder / name).exists()}


def _fetch(url: str, store: Any, folder: Path, files: Files) -> None:
    """Copies files of the bucket into the folder, several at a time.

    Raises:
        EnvironmentFault: the store or the disk refuses; the files that are complete stay.
    """

    def fetch_file(name: str) -> None:
        target, info = folder / name, files[name]
        partial = target.with_name(f".{target.name}.partial")
        try:
            with full_disk_errors(target):
                store.get_file(info["name"], str(partial))
                if partial.stat().st_size != info["size"]:
                    raise EnvironmentFault(f"{url}/{name}: arrived incomplete; try again")
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    with storage_errors(folder):
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with store_errors(url), ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(fetch_file, files):
            pass


def _copy_name(url: str, files: Files) -> str:
    facts = {name: identity(info) for name, info in files.items()}
    return hashlib.sha256(json.dumps([url, facts], sort_keys=True).encode()).hexdigest()[:40]


def cached_copy(name: str) -> Path | None:
    """The folder that `fetch` has made under this name; None where there is none."""
    folder = cache_folder() / name
    return folder if folder.is_dir() else None


def _listing(url: str) -> tuple[Files, Any]:
    store, root = open_store(url)
    with store_errors(url):
        objects = list_objects(store, root)
    files = {name: info for name, info in sorted(objects.items()) if _wanted(name)}
    if "config.json" not in files:
        raise InputError(f"{url}: no checkpoint there (no config.json)")
    return files, store


def _wanted(name: str) -> bool:
    if ".." in name.split("/"):
        return False
    top = "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)
    return top or name.startswith("params/")
