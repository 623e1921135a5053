"""One run per directory. The kernel's lock decides; the file's text only says who holds it."""

import errno
import fcntl
import json
import logging
import os
import socket
from pathlib import Path
from typing import IO, Any

from thinksafe_jax.errors import EnvironmentFault, InUse
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.storage.files import shown, storage_errors
from thinksafe_jax.storage.hashing import now

log = logging.getLogger(__name__)
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class RunLock:
    """A lock on RUN/lock, released by the kernel even when the process is killed.

    Args:
        shared: beside others that share it; who holds it is then not written down.

    Raises:
        InUse: another process holds it; names its pid, host and start.
    """

    def __init__(self, path: Path, *, shared: bool = False):
        self._shared = shared
        with storage_errors(path):
            self._file = path.open("a+b")
            try:
                flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"{shown(path.parent)} is in use by {describe(holder(path))}"
                self._file.close()
                raise InUse(
                    f"{message}; wait for it, stop it, or choose another --run-dir"
                ) from None
            except EnvironmentFault:
                self._file.close()
                raise
            if not shared:
                self._take_over(path)

    def _take_over(self, path: Path) -> None:
        if left := holder(path):
            log.warning("%s: recovered a stale lock, left by %s", path, describe(left))
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "time": now()}
        self._file.truncate(0)
        self._file.write(json.dumps(mine).encode() + b"\n")
        self._file.flush()

    def release(self) -> None:
        """Empty the file and let go; the file itself stays, since deleting it would race."""
        if not self._file.closed:
            if not self._shared:
                self._file.truncate(0)
            self._file.close()


def flock(file: IO[Any], operation: int) -> None:
    """`fcntl.flock`.

    Raises:
        BlockingIOError: another process holds the lock, and the operation does not wait.
        EnvironmentFault: the file system has no locks, as Lustre mounted without them.
    """
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise EnvironmentFault(
            f"{file.name}: a file system without locks ({(error.strerror or '').lower()}); mount "
            "it with flock, or choose another directory"
        ) from error


def holder(path: Path) -> dict[str, Any] | None:
    """Who wrote the lock file, alive or not; None where nobody is named."""
    try:
        content = load_unique(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock now."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def describe(who: dict[str, Any] | None) -> str:
    if not who:
        return "another process"
    return f"pid {who.get('pid')} on {who.get('host')} since {who.get('time')}"
