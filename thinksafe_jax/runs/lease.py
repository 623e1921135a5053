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
from collections.abc import Callable
from typing import Any

from thinksafe_jax.errors import ConfigError, EnvironmentFault
from thinksafe_jax.runs.lock import describe
from thinksafe_jax.runs.manifest import now
from thinksafe_jax.runs.objects import list_objects

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
        ConfigError: a live process holds this lease or one that it excludes.
    """

    def __init__(self, store: Any, root: str, name: str, url: str, excludes: Callable[[str], bool]):
        self._store, self._path, self._url = store, f"{root}/{name}", url
        self._me = {
            "pid": os.getpid(), "host": socket.gethostname(), "time": now(),
            "token": secrets.token_hex(8),
        }  # fmt: skip
        self._renewals, self._lost = 0, ""
        self._create()
        try:
            others = (other for other in list_objects(store, root) if excludes(other))
            for other in others:
                self._bury(f"{root}/{other}")
        except BaseException:
            self._store.rm_file(self._path)
            raise
        self._renewed, self._released = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

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

    def _create(self) -> None:
        try:
            self._store.pipe_file(self._path, self._content(), mode="create")
        except FileExistsError:
            self._bury(self._path)
            try:
                self._store.pipe_file(self._path, self._content(), mode="create")
            except FileExistsError:
                raise ConfigError(_in_use(self._url, self._read(self._path))) from None

    def _bury(self, path: str) -> None:
        """Removes a lease whose holder is dead; raises ConfigError as soon as it proves alive."""
        first, began = self._read(path), time.monotonic()
        if first and not _died_here(first):
            log.info("%s: is %s alive? Waiting up to %.0f s", self._url, describe(first), DEAD)
        while first and not _died_here(first) and time.monotonic() - began < DEAD:
            time.sleep(RENEW / 5)
            found = self._read(path)
            if found and found != first:
                raise ConfigError(_in_use(self._url, found))
            first = found
        if first and self._read(path) == first:
            log.warning("%s: taking over from %s, killed", self._url, describe(first))
            self._store.rm_file(path)

    def _keep(self) -> None:
        while not self._released.wait(RENEW):
            try:
                found = self._read(self._path)
                if not self._is_mine(found):
                    self._lost = f"taken over by {describe(found)}"
                    return
                self._renewals += 1
                self._store.pipe_file(self._path, self._content())
                self._renewed = time.monotonic()
            except Exception as error:  # stores raise many kinds; `check` judges by the time
                log.warning("%s: the lease was not renewed: %s", self._url, error)

    def _content(self) -> bytes:
        return json.dumps({**self._me, "renewals": self._renewals}).encode()

    def _is_mine(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found.get("token") == self._me["token"]

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self._store.cat_file(path))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def _in_use(url: str, who: dict[str, Any] | None) -> str:
    return f"{url} is in use by {describe(who)}; wait for it, stop it, or choose another --run-dir"


def _died_here(who: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if who.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(who["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False
