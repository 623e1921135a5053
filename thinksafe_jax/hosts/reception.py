"""The port of the rendezvous: strangers are kept short, members are handed on.

Whoever connects gets a nonce and must answer with a hello that proves the run's secret, in one
short line and within seconds. Everything else is turned away with a line in the log, and costs the
run nothing: memory for a few kilobytes and a thread, of at most `_MOST_STRANGERS` at a time.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.hosts.connection import Connection, Messages
from thinksafe_jax.hosts.secret import VARIABLE, is_proven, make_nonce, read_secret

_log = logging.getLogger(__name__)
_MOST_STRANGERS = 256  # connections that have not said hello; a further one takes the oldest's turn
_HELLO_SECONDS = 10.0
_MOST_LOGGED = 20  # lines about who was turned away
_LONGEST_NAME = 255  # of a host


@dataclass(frozen=True)
class Newcomer:
    """Who said hello, and knows the secret where there is one.

    Attributes:
        index, count: which process of how many it says it is.
        host, pid: where it runs.
        address: where its connection comes from.
        connection, messages: to and from it.
    """

    index: int
    count: int
    host: str
    pid: int
    address: str
    connection: Connection
    messages: Messages


class Reception:
    """Listens from its making on; a thread serves each connection until it ends.

    Args:
        server: a listening socket.
        patience: seconds that a newcomer may take nothing of what is sent to it.
        serve: called with each newcomer in its thread.

    Attributes:
        turned_away: what to say of who was turned away; empty as long as nobody was.
    """

    def __init__(self, server: socket.socket, patience: float, serve: Callable[[Newcomer], None]):
        self._server, self._patience, self._serve = server, patience, serve
        self._secret = read_secret()
        self._lock = threading.Lock()
        self._strangers: dict[Connection, float] = {}  # since when each is here
        self._count, self.turned_away = 0, ""
        threading.Thread(target=self._accept, name="rendezvous accepts", daemon=True).start()

    @property
    def guarded(self) -> bool:
        """Whether newcomers must know a secret."""
        return bool(self._secret)

    def turn_away(self, address: str, why: str) -> None:
        """Notes that somebody took no part; nobody else notices."""
        with self._lock:
            self._count += 1
            times = f"{self._count} connections were" if self._count > 1 else "one connection was"
            self.turned_away = f"{times} turned away, the last from {address}: {why}"
            logged = self._count <= _MOST_LOGGED
        if logged:
            _log.warning("turned away a connection from %s: %s", address, why)

    def close_the_late(self) -> None:
        """Cuts off who has not said hello in time; to be called each second."""
        with self._lock:
            since = time.monotonic() - _HELLO_SECONDS
            late = [stranger for stranger, came in self._strangers.items() if came < since]
        for stranger in late:
            stranger.close()

    def close(self) -> None:
        """Stops listening."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connected, address = self._server.accept()
            except OSError:  # closed
                return
            stranger = Connection(connected, self._patience, trusted=False)
            with self._lock:
                if len(self._strangers) >= _MOST_STRANGERS:
                    next(iter(self._strangers)).close()
                self._strangers[stranger] = time.monotonic()
            receive = threading.Thread(target=self._receive, args=(stranger, address[0]))
            receive.daemon = True
            receive.start()

    def _receive(self, stranger: Connection, address: str) -> None:
        nonce, messages = make_nonce(), stranger.messages()
        stranger.send("nonce", nonce=nonce)
        hello = next(messages, None)
        with self._lock:
            del self._strangers[stranger]
        if hello is None or not is_proven(self._secret, nonce, hello.get("proof")):
            if hello is not None and hello["kind"] == "hello":  # a process of ours, or of a run
                stranger.send("no place", line=f"does not take it: its {VARIABLE} is another")
            said_nothing = "it said no hello, in one short line and in time"
            stranger_to_run = f"it does not prove the run's secret ({VARIABLE})"
            self.turn_away(address, stranger_to_run if hello else said_nothing)
            stranger.close()
        elif problem := _malformed(hello):
            self.turn_away(address, problem)
            stranger.close()
        else:
            stranger.trusted = True
            who = {name: hello[name] for name in ("index", "count", "host", "pid")}
            self._serve(Newcomer(**who, address=address, connection=stranger, messages=messages))


def _malformed(hello: dict[str, Any]) -> str:
    """What is wrong with a hello; empty where nothing is."""
    count, index, pid, host = (hello.get(name) for name in ("count", "index", "pid", "host"))
    if hello["kind"] != "hello" or bool in map(type, (count, index, pid)):
        return "its hello is none"
    if not (isinstance(count, int) and isinstance(index, int) and isinstance(pid, int)):
        return "its hello is none"
    if not 0 <= index < count:
        return f"it says that it is process {index} of {count}"
    if not isinstance(host, str) or not 0 < len(host) <= _LONGEST_NAME or not host.isprintable():
        return "the name of its host is none"
    return ""


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket at the coordinator's address, and that address; "" where it is every one.

    It is every one where the coordinator's name leads to no address of this machine, as behind a
    forwarded port, or to a loopback address that the other hosts would read as their own.

    Raises:
        EnvironmentFault: the port is taken.
    """
    address = next((a for a in _addresses(host, port) if _is_here(a)), "")
    both = not address and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in address else socket.AF_INET
    try:
        server = socket.create_server(
            (address, port), family=family, dualstack_ipv6=both, backlog=1024
        )
    except OSError as error:
        raise EnvironmentFault(
            f"process 0 cannot listen at port {port}: {(error.strerror or str(error)).lower()}; "
            "another run may use it: choose another port in --coordinator"
        ) from None
    if not address:
        _log.info("process 0 listens at every address of this machine: %s is none of them", host)
    return server, address


def _is_here(address: str) -> bool:
    """Whether it is an address of this machine."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _addresses(host: str, port: int) -> list[str]:
    """What the name leads to, without addresses that only this machine would understand."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    addresses = [str(answer[4][0]) for answer in answers]
    local = host == "localhost" or host in addresses
    return [a for a in addresses if local or not (a.startswith("127.") or a == "::1")]
