"""Notices a step that stops: no progress for too long means stacks on stderr and exit code 75."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

EXIT_CODE = 75  # the same command may well succeed later


class Watchdog:
    """Watches from its making on, in a thread.

    Args:
        limit: seconds without a `beat`; 0 waits for ever.
        on_stall: called with what is wrong before the process ends, to tell others.
    """

    def __init__(self, limit: float, on_stall: Callable[[str], None] = lambda line: None):
        self.doing = "starting"
        self._limit, self._on_stall = limit, on_stall
        self._progress: float | None = time.monotonic()  # None while others are waited for
        if limit:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, doing: str | None = None) -> None:
        """Progress was made; `doing` says what is done next, where it changes."""
        self.doing = doing or self.doing
        self._progress = time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While others are waited for, it is theirs to make progress."""
        self._progress = None
        try:
            yield
        finally:
            self._progress = time.monotonic()

    def stalled(self) -> float:
        """Seconds without progress."""
        since = self._progress
        return 0.0 if since is None else time.monotonic() - since

    def _watch(self) -> None:
        while (stalled := self.stalled()) <= self._limit:
            time.sleep(min(1.0, self._limit / 4))
        line = f"made no progress for {stalled:.0f} s at: {self.doing}"
        dump_stacks()
        self._on_stall(line)
        abort(
            f"watchdog: this process {line}. The stacks of its threads stand above. Run the same "
            "command again to resume; THINKSAFE_STEP_LIMIT=SECONDS allows more, 0 any time"
        )


def dump_stacks() -> None:
    """Prints where every thread is to stderr."""
    with contextlib.suppress(Exception):  # stderr may be no file, or closed
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)


def abort(line: str, code: int = EXIT_CODE) -> NoReturn:
    """Says why and ends the process at once, whatever its other threads wait for."""
    shown = "".join(c if c.isprintable() else "?" for c in line)  # part of it came over a network
    with contextlib.suppress(OSError):
        os.write(2, f"error: {shown}\n".encode("utf-8", "replace"))
    os._exit(code)
