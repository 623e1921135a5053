"""How a process joins: it calls process 0, says who it is, and hears the names of all."""

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.hosts.cluster import Cluster
from thinksafe_jax.hosts.connection import Connection, Messages
from thinksafe_jax.hosts.group import nothing
from thinksafe_jax.hosts.secret import prove, read_secret
from thinksafe_jax.hosts.time_limits import Limits

_log = logging.getLogger(__name__)
_AGAIN = 1.0  # seconds until the next call, where a rendezvous had no place


def join_rendezvous(
    cluster: Cluster, limits: Limits, address: str
) -> tuple[Connection, Messages, dict[str, Any]]:
    """Calls process 0 until it has told who takes part.

    It may be the process 0 of a command that is just ending, as of `doctor --pod && run`: it hangs
    up, or says that it has all its processes. Then the next is waited for.

    Args:
        address: where process 0 listens, as this process reaches it.

    Returns:
        The connection, what still arrives over it, and the message `all` of the rendezvous.

    Raises:
        EnvironmentFault: not all came in time, or there was no place; says why.
    """
    deadline = time.monotonic() + limits.start
    logged = ""
    while True:
        connection = _call(cluster, limits, address, deadline)
        messages = connection.messages()
        answer = _introduce(cluster, connection, messages)
        if answer and answer["kind"] == "all":
            connection.wait(None)
            return connection, messages, answer
        messages.close()
        connection.close()
        if answer and answer["kind"] == "end":
            error = EnvironmentFault(answer["line"])
            error.exit_code = answer["code"]
            raise error
        reason = answer["line"] if answer else "hangs up, or does not answer"
        if time.monotonic() > deadline:
            raise EnvironmentFault(_no_place(cluster, reason, limits.start))
        if reason != logged:
            _log.warning("%s: process 0 %s; waiting", place(cluster.host, cluster.port), reason)
            logged = reason
        time.sleep(_AGAIN)


def _introduce(
    cluster: Cluster, connection: Connection, messages: Messages
) -> dict[str, Any] | None:
    """Says who this process is and proves that it belongs to the run; gives the answer, if any."""
    for message in messages:
        if message["kind"] == "nonce":
            connection.send(
                "hello",
                proof=prove(read_secret(), message["nonce"]),
                index=cluster.index,
                count=cluster.count,
                host=socket.gethostname() + cluster.slice_of(cluster.index),
                pid=os.getpid(),
            )
        elif message["kind"] in ("all", "end", "no place"):
            return message
    return None


def _no_place(cluster: Cluster, reason: str, seconds: float) -> str:
    return (
        f"process {cluster.index} of {cluster.count} found no place for {seconds:.0f} s: process 0 "
        f"at {place(cluster.host, cluster.port)} {reason}. If another run is going on there, wait "
        "for it, stop it, or take another port on all hosts (--coordinator)"
    )


def _call(cluster: Cluster, limits: Limits, address: str, deadline: float) -> Connection:
    """A connection to process 0, as soon as it listens."""
    try:
        connected = connect(address, cluster.port, deadline)
    except OSError as error:
        raise EnvironmentFault(
            f"process {cluster.index} of {cluster.count} cannot reach process 0 at "
            f"{place(cluster.host, cluster.port)} (from {cluster.found_by}): {reason_of(error)}, "
            f"for {limits.start:.0f} s. Is it started there, and the port open?"
        ) from None
    connection = Connection(connected, limits.silence / 4, trusted=True)
    # the rendezvous names who is missing; a little later, it is itself what is missing
    connection.wait(limits.start + 10.0)
    return connection


def connect(
    host: str, port: int, deadline: float, check: Callable[[], None] = nothing
) -> socket.socket:
    """A connection, as soon as somebody listens there.

    Args:
        deadline: on the monotonic clock.
        check: called before each attempt; it may raise.

    Raises:
        OSError: that of the last attempt.
    """
    while True:
        check()
        try:
            return socket.create_connection((host, port), timeout=10.0)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def reason_of(error: OSError) -> str:
    """The system's words for an error, as they fit into a sentence."""
    return (error.strerror or str(error)).lower()


def place(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
