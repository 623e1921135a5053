"""The command `thinksafe`, and python -m thinksafe_jax: Ctrl-C is heard before the slow imports.

Python's own way of Ctrl-C, an exception at any moment, ends imports of JAX in tracebacks and
segmentation faults, and is lost where it falls into a callback that no exception leaves.
"""

import os
import signal
import sys
import threading

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_LINE = "stopped; the same command goes on from what is done\n"
_SHOW_CURSOR = "\x1b[?25h\n"  # a progress bar hides it; ^C stands on the line


def main() -> None:
    """The command line, which the first Ctrl-C ends at once; an open run saves its work first."""
    listen()
    from thinksafe_jax.cli import main as command

    command()


def listen() -> None:
    """From now on SIGINT and SIGTERM end the process by one line, also in the middle of C code.

    The handler that Python runs between bytecodes does nothing: what it would wait for may take
    minutes. A thread reads what the kernel's handler writes to a pipe (`signal.set_wakeup_fd`).
    `runs.StopSignals` puts its own handlers over these for as long as a run is open.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    for signum in _STOPPING:
        signal.signal(signum, _heard)
    os.register_at_fork(after_in_child=_forget_in_child)


def _heard(_signum: int, _frame: object) -> None:
    """The watching thread has it."""


def _watch(reader: int) -> None:
    while received := os.read(reader, 1):
        if received[0] in _STOPPING:
            _end(received[0])


def _end(signum: int) -> None:
    terminal = os.isatty(2)
    os.write(2, f"{_SHOW_CURSOR if terminal else ''}{_LINE}".encode())
    hosts = sys.modules.get("thinksafe_jax.hosts")
    if tell := getattr(hosts, "fail", None):  # half imported, it has joined nobody yet
        tell(f"stopped by signal {signum}", 128 + signum)
    os._exit(128 + signum)


def _forget_in_child() -> None:
    """A forked worker must not report its signals through the parent's pipe, nor outlive them."""
    if signal.getsignal(signal.SIGINT) is _heard:
        signal.set_wakeup_fd(-1)
        for signum in _STOPPING:
            signal.signal(signum, signal.SIG_DFL)


if __name__ == "__main__":
    main()
