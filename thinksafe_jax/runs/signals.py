"""SIGTERM and Ctrl-C: the first asks the run to save and stop, the second ends it at once."""

import contextlib
import os
import signal
import threading
import time

from thinksafe_jax.errors import Terminated

STOPPING = (signal.SIGTERM, signal.SIGINT)
# timeout(1) signals its child and then the child's group: that is one request, not two
SAME_SIGNAL = 0.25  # seconds


class StopSignals:
    """While entered, remembers the first stop signal and obeys the second.

    Python runs its handlers only between bytecodes, and a compilation may take minutes. So the
    kernel-level handler also writes each signal to a pipe (`signal.set_wakeup_fd`), and a thread
    that reads the pipe makes the second signal count even then.

    Outside the main thread, where Python allows no handlers, nothing is installed.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = {s: signal.signal(s, self._remember) for s in STOPPING}
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, args=(self._reader,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        os.close(self._writer)  # the reading thread sees the end of the pipe
        self._thread.join()
        os.close(self._reader)
        self._before = {}

    def check(self) -> None:
        """Call between units of work.

        Raises:
            Terminated: a stop signal has arrived since entering.
        """
        if self.signum is not None:
            raise Terminated(self.signum)

    def _remember(self, signum: int, _frame: object) -> None:
        if self.signum is None:
            self.signum = signum

    def _watch(self, reader: int) -> None:
        first: float | None = None
        while received := os.read(reader, 64):
            for signum in received:
                if signum not in STOPPING:
                    continue
                if first is None:
                    first = time.monotonic()
                    self._remember(signum, None)
                    _announce(signum)
                elif time.monotonic() - first > SAME_SIGNAL:
                    os._exit(128 + signum)


def _announce(signum: int) -> None:
    name = signal.Signals(signum).name
    with contextlib.suppress(OSError):  # stderr may be gone with its terminal
        os.write(2, f"{name}: finishing the unit of work; again to stop at once\n".encode())


def _forget_in_child() -> None:
    """A forked worker must not report its signals through the parent's pipe, nor outlive them."""
    handler = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if isinstance(handler, StopSignals):
        signal.set_wakeup_fd(-1)
        for signum in STOPPING:
            signal.signal(signum, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_in_child)
