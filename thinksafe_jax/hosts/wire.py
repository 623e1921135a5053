"""Lines of JSON over a socket: how the processes of a run talk, beside what JAX sends."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

_LONGEST = 1 << 26  # bytes of one line; what is longer was sent by something else


class Wire:
    """One end of a connection; `send` may be called from any thread."""

    def __init__(self, connection: socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._lock = connection, threading.Lock()

    def send(self, kind: str, **values: Any) -> None:
        """Sends one message, unless the other end is gone: `messages` will see that."""
        line = json.dumps({"kind": kind, **values}).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(line)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What arrives, until the other end closes, dies or sends something else than messages."""
        with contextlib.suppress(OSError, ValueError), self._socket.makefile("rb") as lines:
            while line := lines.readline(_LONGEST):
                message = json.loads(line)
                if not isinstance(message, dict) or "kind" not in message:
                    return
                yield message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
