"""Writing so that a kill or a full disk leaves the old file or the new one, never half of one."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from thinksafe_jax.errors import EnvironmentFault, quoted

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class Remote(Protocol):
    """Where a folder is kept as well: `mirror.Mirror`."""

    url: str

    def push(self, path: Path, *, wait: bool = True) -> None:
        """Copies a path of the folder there; unless `wait`, not while another copy is made."""

    def pull(self) -> None:
        """Brings the folder up to date."""


_mounts: dict[Path, Remote] = {}


def mount(folder: Path, remote: Remote) -> None:
    """From now on `persist` and `refresh` reach what a folder mirrors."""
    _mounts[folder] = remote


def is_mounted(path: Path) -> bool:
    """Whether a path lies beneath a mounted folder: then a file there is only ever sent whole."""
    return any(path.is_relative_to(folder) for folder in _mounts)


def shown(path: Path) -> str:
    """A path as users know it: in a bucket, and not in the folder that mirrors it."""
    for folder, remote in _mounts.items():
        if path.is_relative_to(folder):
            return "/".join([remote.url, *path.relative_to(folder).parts])
    return str(path)


def persist(path: Path, *, wait: bool = True) -> None:
    """Makes a file or folder that is safe on this disk safe wherever its run directory is kept.

    Args:
        wait: False for what can be left to a later call, when a checkpoint is on its way there.
    """
    for folder, remote in _mounts.items():
        if path.is_relative_to(folder) and not path.name.startswith("."):
            remote.push(path, wait=wait)


def refresh(path: Path) -> None:
    """Shows what other hosts have written to the run directory of a path; a disk just does."""
    for folder, remote in _mounts.items():
        if path.is_relative_to(folder):
            remote.pull()


def atomic_write(path: Path | str, content: str | bytes) -> None:
    """Replace a file's content at once: temporary file, fsync, rename, fsync of the folder.

    Args:
        content: text is written as UTF-8; lone surrogates become `?`.

    Raises:
        EnvironmentFault: the disk is full or the folder cannot be written; the old file is intact.
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    with atomic_writer(path) as file:
        file.write(data)


@contextmanager
def atomic_writer(path: Path | str) -> Iterator[IO[bytes]]:
    """`atomic_write` for content that comes in pieces: the file appears when the block ends.

    Raises:
        EnvironmentFault: as `atomic_write`; whatever ends the block early, the old file is intact.
    """
    path = Path(path)
    if not path.name:
        raise EnvironmentFault(
            f"cannot write {quoted(str(path), 200)}: the name of a file is expected"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    persist(path)


def sync_folder(folder: Path) -> None:
    """Make names created in or renamed into a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # FUSE buckets cannot sync folders
            raise
    finally:
        os.close(descriptor)


def prepare_directory(folder: Path | str) -> Path:
    """Create a folder with its parents and prove that it can be written.

    Called before anything expensive, so that a wrong output path costs a second and not an hour.

    Raises:
        EnvironmentFault: it cannot be created or written.
    """
    folder = Path(folder)
    probe = folder / f".probe.{os.getpid()}.partial"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"can this be written?\n")
            file.flush()
            os.fsync(file.fileno())
        probe.unlink(missing_ok=True)  # a host whose process has the same number may be as far
    return folder


def existing_place(path: Path) -> Path:
    """The path, or the nearest folder above it that exists and can be seen."""
    return next(place for place in (path, *path.absolute().parents) if os.path.exists(place))


def writable_place(folder: Path) -> Path:
    """The folder, or the nearest above it that exists, proved to be writable; nothing is left.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    return prepare_directory(existing_place(folder))


def set_aside(path: Path, target: Path) -> Path:
    """Moves a file or folder to `target`, or beside it where something lies there: NAME.2, NAME.3.

    Returns:
        Where it is now.
    """
    free, number = target, 1
    while free.exists():
        number += 1
        free = target.with_name(f"{target.stem}.{number}{target.suffix}")
    prepare_directory(target.parent)
    path.rename(free)
    return free


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence with the path and the way out.

    Raises:
        EnvironmentFault: for every OSError raised inside.
    """
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(_sentence(path, error)) from error


@contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """As `storage_errors` where other errors than a full disk are not the disk's."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise EnvironmentFault(_sentence(path, error)) from error
        raise


def _sentence(path: Path, error: OSError) -> str:
    code, reason = error.errno, (error.strerror or str(error)).lower()
    if code in _FULL:
        return (
            f"{path}: cannot write, {reason} ({free_bytes(path):,} bytes free); make room and run "
            "the same command again: complete rows are kept"
        )
    if code in _REFUSED:
        return f"{path}: cannot write, {reason}; choose a directory that you can write"
    if code in (errno.ENOTDIR, errno.EEXIST):
        return f"{path}: a file is in the way where a directory is needed"
    return f"{path}: storage error: {reason}"


def free_bytes(path: Path) -> int:
    """Free bytes of the file system that holds a path, or would hold it; 0 where unknown."""
    try:
        return shutil.disk_usage(existing_place(path)).free
    except OSError:
        return 0
