"""Who may write to a run in a bucket. No store can lock, but all can create an object only once.

The holder rewrites its object every RENEW seconds. One that does not change for DEAD seconds, on
the clock of whoever waits, was left by a kill and is taken over: hosts' clocks are never compared.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import EnvironmentFault, InUse
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.storage.hashing import now
from thinksafe_jax.storage.lock import describe
from thinksafe_jax.storage.objects import list_objects

log = logging.getLogger(__name__)
RENEW, DEAD = 15.0, 60.0  # seconds


class Lease:
    """The object ROOT/NAME, held from here to `release`.

    Args:
        store, root: as `objects.open_store` gives them.
        name: `lock`, or `lock-PART`.
        url: for messages.
        excludes: of the name of another lease: whether both cannot be held at the same time.

    Raises:
        InUse: a live process holds this lease or one that it excludes.
    """

    def __init__(self, store: Any, root: str, name: str, url: str, excludes: Callable[[str], bool]):
        self._store, self._path, self._url = store, f"{root}/{name}", url
        self._me = {
            "pid": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "time": now(),
            "token": secrets.token_hex(8),
        }  # fmt: skip
        self._renewals, self._lost = 0, ""
        took_over = self._create()
        self._renewed, self._released = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()  # now, so that others see it renewed while this one waits for them
        try:
            others = [f"{root}/{name}" for name in list_objects(store, root) if excludes(name)]
            if self._bury(others) or took_over:
                self._confirm()
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Raises EnvironmentFault when another process has taken the lease over."""
        late = time.monotonic() - self._renewed
        if not self._lost and late > DEAD:
            self._lost = f"it could not be renewed for {late:.0f} s"
        if self._lost:
            raise EnvironmentFault(
                f"{self._url}: the lease is lost ({self._lost}); what had arrived there is kept, "
                "nothing more is written. Run the same command again"
            )

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        if not self._lost and self._is_mine(self._read(self._path)):
            self._store.rm_file(self._path)

    def _create(self) -> bool:
        """Returns whether a dead holder's lease was in the way."""
        try:
            self._store.pipe_file(self._path, self._content(), mode="create")
        except FileExistsError:
            self._bury([self._path])
            try:
                self._store.pipe_file(self._path, self._content(), mode="create")
            except FileExistsError:
                raise InUse(_in_use(self._url, self._read(self._path))) from None
            return True
        return False

    def _bury(self, paths: Iterable[str]) -> bool:
        """Removes leases whose holders are dead, all watched at once; whether there were any.

        Raises:
            InUse: as soon as one of them proves alive.
        """
        began = time.monotonic()
        first = {path: lease for path in paths if (lease := self._read(path)) is not None}
        unknown = {path for path, lease in first.items() if not _died_here(lease)}
        for path in unknown:
            who = describe(first[path])
            log.info("%s: is %s alive? Waiting up to %.0f s", self._url, who, DEAD)
        while unknown and time.monotonic() - began < DEAD:
            time.sleep(RENEW / 5)
            for path in sorted(unknown):
                lease = self._read(path)
                if lease is None:
                    unknown.remove(path)
                elif lease != first[path]:
                    raise InUse(_in_use(self._url, lease or first[path]))
        for path, lease in first.items():
            if self._read(path) == lease:
                log.warning("%s: taking over from %s, killed", self._url, describe(lease))
                with suppress(FileNotFoundError):  # another process has waited as well
                    self._store.rm_file(path)
        return bool(first)

    def _confirm(self) -> None:
        """Another process that waited for the same dead holder may have removed this lease with it.

        Raises:
            InUse: it has.
        """
        time.sleep(RENEW / 5)
        lease = self._read(self._path)
        if not self._is_mine(lease):
            raise InUse(_in_use(self._url, lease))

    def _keep(self) -> None:
        while not self._released.wait(RENEW):
            try:
                lease = self._read(self._path)
                if not self._is_mine(lease):
                    self._lost = f"taken over by {describe(lease)}"
                    return
                self._renewals += 1
                began = time.monotonic()
                self._store.pipe_file(self._path, self._content())
                self._renewed = began
            except Exception as error:  # stores raise many kinds; `check` judges by the time
                log.warning("%s: the lease was not renewed: %s", self._url, error)

    def _content(self) -> bytes:
        return json.dumps({**self._me, "renewals": self._renewals}).encode()

    def _is_mine(self, lease: dict[str, Any] | None) -> bool:
        return lease is not None and lease.get("token") == self._me["token"]

    def _read(self, path: str) -> dict[str, Any] | None:
        for _ in range(2):  # where the store is a folder, what is being rewritten reads as torn
            try:
                lease = load_unique(self._store.cat_file(path).decode("utf-8"))
            except FileNotFoundError:
                return None
            except ValueError:  # so does what a kill left half written
                continue
            return lease if isinstance(lease, dict) else {}
        return {}


def _in_use(url: str, who: dict[str, Any] | None) -> str:
    return f"{url} is in use by {describe(who)}; wait for it, stop it, or choose another --run-dir"


def _died_here(who: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if (who.get("host"), who.get("machine")) != (socket.gethostname(), _machine()):
        return False
    try:
        os.kill(int(who["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, TypeError, ValueError):
        return False
    return False


def _machine() -> str:
    """What tells the start of a kernel, and the container on it, whose process numbers these are.

    Hosts of one name are common. Empty where there is no /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
