"""Lines of JSON over a socket: how the processes of a run talk, beside what JAX sends."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Generator
from typing import Any

# bytes of one line; what is longer was sent by something else
_LONGEST, _LONGEST_OF_STRANGERS = 1 << 26, 1 << 12
Messages = Generator[dict[str, Any], None, None]


class Connection:
    """One end of a connection between two processes; `send` may be called from any thread.

    Args:
        connected: a socket of which the other end is there.
        patience: seconds that the other end may take nothing of what is sent; then it is cut off.
        trusted: whether the other end is known; a stranger may only send short lines.
    """

    def __init__(self, connected: socket.socket, patience: float, *, trusted: bool):
        self.trusted = trusted
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit = struct.pack("ll", int(patience), int(patience % 1 * 1e6))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._socket, self._lock = connected, threading.Lock()

    def send(self, kind: str, **values: Any) -> None:
        """Sends one message, unless the other end is gone or stuck: `messages` will see that."""
        line = json.dumps({"kind": kind, **values}).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(line)
            except OSError:  # part of the line may be sent, so nothing can follow
                self._shut()

    def wait(self, seconds: float | None) -> None:
        """From now on `messages` ends after so many seconds without any; None: it waits."""
        self._socket.settimeout(seconds)

    def messages(self) -> Messages:
        """What arrives, until the other end closes, dies or sends something else than messages."""
        broken = contextlib.suppress(OSError, ValueError, RecursionError)
        with broken, self._socket.makefile("rb") as lines:
            while line := lines.readline(_LONGEST if self.trusted else _LONGEST_OF_STRANGERS):
                message = json.loads(line)
                if not isinstance(message, dict) or "kind" not in message:
                    return
                yield message

    def close(self) -> None:
        """Ends the connection; the other end sees it."""
        self._shut()
        self._socket.close()

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
