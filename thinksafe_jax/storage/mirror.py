"""A run directory in a bucket: worked on in a local copy, safe once it is in the bucket.

    gs://bucket/run  ◄── push ──  ~/.cache/thinksafe/runs/run-1f0c…  ◄── every stage and reader
                     ── pull ──►

An object can be neither appended to, renamed nor locked, and every look at one is a round trip. So
the stages work on the local disk as ever, and wherever a run on a disk alone would wait for the
disk (rows appended, a file replaced, a checkpoint complete, a stage done) a run in a bucket waits
for the bucket too. Rows go there as numbered segments, each written once; every other file goes
whole. Deletions go first, manifests last: what a kill leaves there is an earlier state.

What the bucket holds is the truth. A start on another machine, or on this one after a kill, pulls
what differs; what was finished here but had not arrived yet is pushed then, unless another machine
has begun a new run there since.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from thinksafe_jax.json_files import load_unique
from thinksafe_jax.machine import cache_folder
from thinksafe_jax.storage.files import (
    atomic_write,
    full_disk_errors,
    mount,
    storage_errors,
)
from thinksafe_jax.storage.lease import Lease
from thinksafe_jax.storage.lock import flock, is_held
from thinksafe_jax.storage.objects import identity, is_url, list_objects, open_store, store_errors

log = logging.getLogger(__name__)
_INDEX, _MANIFEST = ".objects.json", "manifest.json"
_THREADS = 16  # transfers at a time; stores are slow to answer, not slow
_NOTE_SECONDS = 5.0  # of transfers are at most done again after a kill
Entry = list[Any]  # [identity in the bucket, size and mtime_ns of the local file with that content]
_mirrors: dict[Path, "Mirror"] = {}


def run_folder(name: str | Path) -> Path:
    """The local folder of a run directory: `name` itself, or for a URL its copy, up to date.

    Raises:
        InputError: a kind of URL that fsspec does not know.
        EnvironmentFault: the bucket cannot be read, or the package for it is missing.
    """
    if not is_url(name):
        return Path(name)
    url = str(name).rstrip("/")
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    folder = cache_folder().absolute() / "runs" / f"{url.rpartition('/')[2]}-{digest}"
    if folder not in _mirrors:
        _mirrors[folder] = mirror = Mirror(url, folder)
        mount(folder, mirror)
    if not is_held(folder / "lock"):  # else a run of this machine keeps it up to date
        _mirrors[folder].pull()
    return folder


def mirror_of(folder: Path) -> "Mirror | None":
    """The bucket behind a run directory; None where it is a folder like any other."""
    return _mirrors.get(folder)


class Mirror:
    """A folder and the objects beneath a URL that it mirrors.

    Hidden files, half-written ones and locks stay local.

    Attributes:
        lease: held while a run is open; nothing is written after it was lost.
    """

    def __init__(self, url: str, folder: Path):
        self.url, self.folder = url, folder
        self.lease: Lease | None = None
        self._store, self._root = open_store(url)
        self._busy = RLock()  # checkpoints are pushed from a thread

    @contextmanager
    def held(self, name: str, excludes: Callable[[str], bool]) -> Iterator[None]:
        """The bucket's side of `RunLock`: a lease, the newest state, and at the end all of it back.

        Args:
            name: of the lock.
            excludes: of the name of another lock: whether it cannot be held at the same time.

        Raises:
            ConfigError: another process holds one of them.
        """
        with store_errors(self.url):
            self.lease = Lease(self._store, self._root, name, self.url, excludes)
        try:
            self.pull()
            self.push(self.folder)
            yield
        finally:
            try:
                self.push(self.folder)
            finally:
                lease, self.lease = self.lease, None
                with store_errors(self.url):
                    lease.release()

    def pull(self) -> None:
        """Makes the folder what the bucket holds; what of its run never arrived there stays."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with self._busy, store_errors(self.url):
            index = self._index()  # before the listing: what is noted, it shows
            objects = {
                n: i for n, i in list_objects(self._store, self._root).items() if _travels(n)
            }
            if self._begun_anew(
                index, objects
            ):  # before its manifest comes: a kill leaves it to do
                self._forget(objects)
            stale = [n for n, i in objects.items() if index.get(n, [""])[0] != identity(i)]
            stale += [n for n in objects if n not in stale and not (self.folder / n).exists()]
            if stale:
                size = sum(objects[name]["size"] for name in stale)
                log.info("%s: fetching %d files, %.1f MB", self.url, len(stale), size / 1e6)
            self._each(lambda name: self._fetch(name, identity(objects[name])), stale)
            gone = [name for name in index if name not in objects]
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)
            self._note(dict.fromkeys(gone))

    def _begun_anew(self, index: Mapping[str, Entry], objects: Mapping[str, Any]) -> bool:
        """Whether the run in the bucket, or its verdicts, are others than this folder copied."""
        if _MANIFEST not in objects:
            return _MANIFEST in index
        if index.get(_MANIFEST, [""])[0] == identity(objects[_MANIFEST]):
            return False
        manifest = self.folder / _MANIFEST
        theirs = self._store.cat_file(f"{self._root}/{_MANIFEST}")
        return _begun(manifest.read_bytes() if manifest.exists() else b"{}") != _begun(theirs)

    def _forget(self, names: Container[str]) -> None:
        """Deletes what the bucket does not hold."""
        for path in [p for p in self.folder.rglob("*") if p.is_file()]:
            name = path.relative_to(self.folder).as_posix()
            if _travels(name) and name not in names:
                log.warning("%s: of an earlier run, not of the one in %s; deleted", path, self.url)
                path.unlink(missing_ok=True)

    def push(self, path: Path, *, wait: bool = True) -> None:
        """Makes the bucket hold a file or folder as it is here, and forgets what is gone here.

        Args:
            wait: False does nothing while another thread pushes.

        Raises:
            EnvironmentFault: the bucket refuses, or another process has taken the run over.
        """
        if self._busy.acquire(blocking=wait):
            try:
                self._push(path)
            finally:
                self._busy.release()

    def _push(self, path: Path) -> None:
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        names = [name for p in files if _travels(name := p.relative_to(self.folder).as_posix())]
        index = self._index()
        gone = sorted((n for n in index if not (self.folder / n).exists()), key=_deletion_order)
        changed = [n for n in names if index.get(n, [""])[1:] != self._stat(n)]
        if not (gone or changed):
            return
        if self.lease is not None:
            self.lease.check()
        with store_errors(self.url):
            for name in gone:
                with suppress(FileNotFoundError):
                    self._store.rm_file(f"{self._root}/{name}")
            self._note(dict.fromkeys(gone))
            self._each(self._send, [n for n in changed if not _is_manifest(n)])
            for name in sorted(filter(_is_manifest, changed), key=lambda n: -n.count("/")):
                self._note({name: self._send(name)})

    def _send(self, name: str) -> Entry:
        before = self._stat(name)  # a file that changes meanwhile is sent again
        self._store.put_file(str(self.folder / name), f"{self._root}/{name}")
        return [identity(self._store.info(f"{self._root}/{name}")), *before]

    def _fetch(self, name: str, version: str) -> Entry | None:
        """None for what was deleted there after it was listed: a run prunes while others read."""
        target = self.folder / name
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with full_disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                self._store.get_file(f"{self._root}/{name}", str(partial))
            partial.replace(target)
            return [version, *self._stat(name)]
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            return None
        finally:
            partial.unlink(missing_ok=True)

    def _each(self, work: Callable[[str], Entry | None], names: Iterable[str]) -> None:
        """Works on several at a time, and notes what is done: who is stopped goes on from there."""
        pool = ThreadPoolExecutor(_THREADS)
        futures = {name: pool.submit(work, name) for name in names}
        noted = time.monotonic()
        try:
            for future in as_completed(futures.values()):
                future.result()
                if time.monotonic() - noted > _NOTE_SECONDS:
                    self._note(_results(futures))
                    noted = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            self._note(_results(futures))

    def _stat(self, name: str) -> list[int]:
        status = (self.folder / name).stat()
        return [status.st_size, status.st_mtime_ns]

    def _index(self) -> dict[str, Entry]:
        try:
            return load_unique((self.folder / _INDEX).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # then everything is fetched again
            return {}

    def _note(self, changes: Mapping[str, Entry | None]) -> None:
        """Adds to the index, from which None removes; several parts of a run may do so at once."""
        if not changes:
            return
        with (self.folder / f"{_INDEX}.lock").open("a") as lock:
            flock(lock, fcntl.LOCK_EX)
            entries = {k: v for k, v in {**self._index(), **changes}.items() if v is not None}
            atomic_write(self.folder / _INDEX, json.dumps(entries))


def _results(futures: Mapping[str, Future[Entry | None]]) -> dict[str, Entry | None]:
    """Of those that have come to an end, and a good one."""
    ended = {name: future for name, future in futures.items() if future.done()}
    good = {n: f for n, f in ended.items() if not f.cancelled() and f.exception() is None}
    return {name: future.result() for name, future in good.items()}


def _travels(name: str) -> bool:
    parts = name.split("/")
    private = any(part.startswith(".") or part.endswith((".partial", ".tmp")) for part in parts)
    return not private and parts[0].partition("-")[0] != "lock" and parts[-1] != "lock"


def _is_manifest(name: str) -> bool:
    return name.rpartition("/")[2] == _MANIFEST


def _begun(manifest: bytes) -> list[Any]:
    """When the run of a manifest, and its verdicts, were begun; empty for one that is damaged."""
    try:
        content = load_unique(manifest.decode("utf-8"), nan=True)
        return [content.get(name) for name in ("created", "verdicts_since")]
    except (ValueError, AttributeError):
        return []


def _deletion_order(name: str) -> tuple[bool, bool, str]:
    """Without its manifest nothing counts; without config.yaml nothing can go on."""
    return not _is_manifest(name), name == "config.yaml", name
