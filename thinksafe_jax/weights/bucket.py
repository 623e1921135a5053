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
from thinksafe_jax.runs.storage import free_bytes, storage_errors
from thinksafe_jax.weights.hub import PATTERNS

_log = logging.getLogger(__name__)
# what buckets call the identity of an object's content
_IDENTITY = ("etag", "ETag", "md5Hash", "crc32c", "generation", "mtime", "LastModified", "created")
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs", "az": "adlfs"}


def fetch(url: str) -> Path:
    """A local copy of the folder `url`: weights and tokenizer files, or a whole Orbax copy.

    The copy is named by the files' names, sizes and identities in the bucket: what has not
    changed is not fetched again, and what has gets another folder.

    Raises:
        InputError: no checkpoint at `url`, or a kind of path that fsspec does not know.
        EnvironmentFault: the package for it is missing, access is refused, or the disk is full.
    """
    files, filesystem = _listing(url)
    facts = {name: [str(info.get(key)) for key in ("size", *_IDENTITY)] for name, info in files}
    digest = hashlib.sha256(json.dumps([url, facts], sort_keys=True).encode()).hexdigest()
    target = _cache() / digest[:40]
    if target.is_dir():
        return target
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


def _listing(url: str) -> tuple[list[tuple[str, dict[str, Any]]], Any]:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
        found = filesystem.find(root, detail=True)
    except ImportError:
        package = _PACKAGES.get(protocol, f"the fsspec package for {protocol}")
        raise EnvironmentFault(f"{url}: needs {package}; pip install {package}") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}") from None
    except OSError as error:
        raise EnvironmentFault(f"{url}: cannot be read ({error}); are you logged in?") from None
    root = root.strip("/")
    names = {path.strip("/").removeprefix(root).strip("/"): path for path in found}
    files = [(name, found[path]) for name, path in sorted(names.items()) if _wanted(name)]
    if not any(name == "config.json" for name, _ in files):
        raise InputError(f"{url}: no checkpoint there (no config.json)")
    return files, filesystem


def _wanted(name: str) -> bool:
    if ".." in name.split("/"):
        return False
    top = "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)
    return top or name.startswith("params/")


def _cache() -> Path:
    own = os.environ.get("THINKSAFE_CACHE")
    general = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(general) / "thinksafe"
