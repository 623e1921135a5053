"""The meeting point of a run's processes, in process 0: who is there, who meets where, who is gone.

    process 1 ──hello──►        ──all are here──►          once
    process 1 ──beat───►        ──tick──►                  each second
    process 1 ──meet X──►       ──values of X──►           when all have come to X
    process 1 ──leave──►  hub   ──end: why, exit code──►   when one is gone, silent or failed
    a stray   ──hello──►        ──busy──►                  when all are here already

JAX has a service of its own for this, but it ends a process by SIGABRT and names nobody, and has
no public way to exchange a word with a time limit.
"""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.hosts.cluster import Cluster
from thinksafe_jax.hosts.group import Limits
from thinksafe_jax.hosts.messages import Wire

_RETRY, _ENVIRONMENT, _USAGE = 75, 4, 2  # exit codes
STOPPED = (130, 143)  # after Ctrl-C and SIGTERM


@dataclass
class _Peer:
    """A process that has joined."""

    index: int
    host: str
    pid: int
    wire: Wire
    heard: float
    doing: str = "starting"
    stalled: float = 0.0  # seconds since it last made progress, as it says itself
    left: bool = False  # of its own accord
    connected: bool = True

    @property
    def name(self) -> str:
        return f"process {self.index} ({self.host}, pid {self.pid})"


class Hub:
    """Listens from its making on; threads serve it until the process ends.

    Raises:
        EnvironmentFault: the port is taken.
    """

    def __init__(self, cluster: Cluster, limits: Limits):
        self._cluster, self._limits = cluster, limits
        self._lock = threading.RLock()
        self._peers: dict[int, _Peer] = {}
        self._meetings: dict[str, dict[int, Any]] = {}  # name -> values of those who came
        self._complete = False
        self._ended: dict[str, Any] | None = None  # what all were told
        self._began = time.monotonic()
        self._server = _listen(cluster.port)
        for work in (self._accept, self._watch):
            threading.Thread(target=work, name=f"hosts {work.__name__}", daemon=True).start()

    def close(self) -> None:
        """Stops listening; whoever is connected sees process 0 gone."""
        self._ended = {}
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.close()
        for peer in self._peers.values():
            peer.wire.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._server.accept()
            except OSError:  # closed
                return
            wire = Wire(connection, self._limits.silence / 4)  # others wait meanwhile
            serve = threading.Thread(target=self._serve, args=(wire, address[0]), daemon=True)
            serve.start()

    def _serve(self, wire: Wire, address: str) -> None:
        messages = wire.messages()
        hello = next(messages, {})
        if hello.get("kind") != "hello" or not hello.keys() >= {"index", "count", "host", "pid"}:
            wire.close()  # a port scanner, or a health check
            return
        peer = self._admit(hello, wire, address)
        if peer is None:
            wire.close()
            return
        reactions = {"beat": self._on_beat, "meet": self._on_meet, "leave": self._on_leave}
        for message in messages:
            with self._lock:
                peer.heard = time.monotonic()
                reactions[message["kind"]](peer, message)
        peer.connected = False
        wire.close()
        if not peer.left:
            self._end(f"{peer.name} is gone; it was last seen at: {peer.doing}", _RETRY)

    def _admit(self, hello: dict[str, Any], wire: Wire, address: str) -> _Peer | None:
        index, count = hello["index"], hello["count"]
        peer = _Peer(index, hello["host"], hello["pid"], wire, time.monotonic())
        with self._lock:
            wanted = self._cluster.count
            if self._complete:  # a stray start, or the next command's: nobody else's concern
                among = f", {self._peers[index].name} among them" if index in self._peers else ""
                wire.send("busy", line=f"has all its {wanted} processes{among}")
                return None
            if self._ended:  # it comes too late
                wire.send("end", **self._ended)
                return None
            if count != wanted:
                return self._refuse(
                    wire, f"{peer.name} was started as one of {count}, process 0 as one of {wanted}"
                )
            if index in self._peers:
                other = self._peers[index].name
                return self._refuse(wire, f"{other} and {peer.name} at {address} are both {index}")
            self._peers[index] = peer
            if len(self._peers) == wanted:
                self._complete = True
                for other in self._peers.values():  # from now on it sends signs of life
                    other.heard = time.monotonic()
                names = [self._peers[n].host for n in range(wanted)]
                self._tell("all", names=names, port=_free_port(self._cluster.port + 1))
        return peer

    def _refuse(self, wire: Wire, why: str) -> None:
        line = f"{why}; give every process its own --process, and the same --processes to all"
        self._end(line, _USAGE)
        wire.send("end", **(self._ended or {}))

    def _on_beat(self, peer: _Peer, message: dict[str, Any]) -> None:
        peer.doing, peer.stalled = message["doing"], message["stalled"]

    def _on_meet(self, peer: _Peer, message: dict[str, Any]) -> None:
        name = message["name"]
        peer.doing, peer.stalled = message["doing"], 0.0
        values = self._meetings.setdefault(name, {})
        values[peer.index] = message["value"]
        if len(values) == self._cluster.count:
            del self._meetings[name]
            self._tell("values", name=name, values=[values[n] for n in sorted(values)])
        elif len({n for came in self._meetings.values() for n in came}) == self._cluster.count:
            self._end(self._astray(), _ENVIRONMENT, stuck=True)

    def _on_leave(self, peer: _Peer, message: dict[str, Any]) -> None:
        if message["code"]:
            why, code = message["why"], message["code"]
            asked = code in STOPPED
            self._end(f"{peer.name}: {why}", _RETRY if asked else code, patient=asked)
        peer.left = True

    def _watch(self) -> None:
        """Once a second: sends a sign of life, and looks for who gives none."""
        limits = self._limits
        while self._ended is None:
            time.sleep(1.0)
            now = time.monotonic()
            with self._lock:
                self._tell("tick")
                if not self._complete:
                    if now - self._began > limits.start:
                        self._end(self._absent(), _ENVIRONMENT)
                    continue
                for peer in [p for p in self._peers.values() if not p.left]:
                    self._look_at(peer, now)

    def _look_at(self, peer: _Peer, now: float) -> None:
        silent = now - peer.heard
        if silent > self._limits.silence:
            peer.connected = False  # nobody waits for it
            self._end(
                f"{peer.name} has been silent for {silent:.0f} s; it was last seen at: "
                f"{peer.doing}. It is stopped, out of memory or cut off",
                _RETRY,
                stuck=True,
            )
        missed = [name for name, came in self._meetings.items() if peer.index not in came]
        if self._limits.step and peer.stalled > self._limits.step and missed:
            self._end(
                f"{peer.name} did not come to {missed[0]!r} and has made no progress for "
                f"{peer.stalled:.0f} s; it was last seen at: {peer.doing}",
                _RETRY,
                stuck=True,
            )

    def _astray(self) -> str:
        places = [
            f"{name!r}: {', '.join(self._peers[n].name for n in sorted(came))}"
            for name, came in self._meetings.items()
        ]
        return (
            f"the processes wait for each other at different points, {'; '.join(places)}. They saw "
            "other files or other settings, or this is a bug; the stacks say more"
        )

    def _absent(self) -> str:
        count = self._cluster.count
        missing = ", ".join(str(n) for n in range(count) if n not in self._peers)
        present = ", ".join(self._peers[n].name for n in sorted(self._peers))
        return (
            f"{len(self._peers)} of {count} processes joined within {self._limits.start:.0f} s; "
            f"missing: process {missing}. Present: {present}. Was the command started on all hosts "
            f"(gcloud: --worker=all, Slurm: srun)? Can they reach {self._cluster.host} at port "
            f"{self._cluster.port}?"
        )

    def _end(self, line: str, code: int, stuck: bool = False, patient: bool = False) -> None:
        """Tells all: why, their exit code, whether to show stacks, whether to leave time."""
        with self._lock:
            if self._ended is None:
                self._ended = {"line": line, "code": code, "stuck": stuck, "patient": patient}
                self._tell("end", **self._ended)

    def wait_for_others(self, seconds: float) -> None:
        """Until process 0 is the last: with it ends JAX's service, which aborts whoever is left."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not any(p.connected for p in self._peers.values() if p.index):
                return
            time.sleep(0.05)

    def _tell(self, kind: str, **values: Any) -> None:
        for peer in self._peers.values():
            if not peer.left:
                peer.wire.send(kind, **values)


def _listen(port: int) -> socket.socket:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        return socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=1024
        )
    except OSError as error:
        raise EnvironmentFault(
            f"process 0 cannot listen at port {port}: {(error.strerror or str(error)).lower()}; "
            "another run may use it: choose another port in --coordinator"
        ) from None


def _free_port(first: int) -> int:
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as JAX's will be
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    return first  # JAX will say what is wrong with it
