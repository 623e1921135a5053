"""The rendezvous of a run's processes, in process 0: who is there, who meets where, who is gone.

    process 1 ──hello──►               ──all are here──►          once
    process 1 ──beat───►               ──tick──►                  each second
    process 1 ──meet X──►  rendezvous  ──values of X──►           when all have come to X
    process 1 ──count Y─►              ──the next number of Y──►  at once, to process 1 alone
    process 1 ──leave──►               ──end: why, exit code──►   when one is gone, silent or failed
    a stray   ──hello──►               ──no place──►              when all are here already

JAX has a service of its own for this, but it ends a process by SIGABRT and names nobody, and has
no public way to exchange a word with a time limit.
"""

import logging
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from thinksafe_jax.hosts.cluster import Cluster
from thinksafe_jax.hosts.connection import Connection
from thinksafe_jax.hosts.reception import Newcomer, Reception, listen
from thinksafe_jax.hosts.time_limits import Limits

_log = logging.getLogger(__name__)
_RETRY, _ENVIRONMENT, _USAGE = 75, 4, 2  # exit codes
STOPPED = (130, 143)  # after Ctrl-C and SIGTERM


@dataclass
class _Peer:
    """A process that has joined."""

    index: int
    host: str
    pid: int
    connection: Connection
    heard: float
    doing: str = "starting"
    stalled: float = 0.0  # seconds since it last made progress, as it says itself
    left: bool = False  # of its own accord
    connected: bool = True

    @property
    def name(self) -> str:
        return f"process {self.index} ({self.host}, pid {self.pid})"


class Rendezvous:
    """Listens from its making on; threads serve it until the process ends.

    Attributes:
        address: of process 0, where it listens; "" for every one of its machine.

    Raises:
        EnvironmentFault: the port is taken.
    """

    def __init__(self, cluster: Cluster, limits: Limits):
        self._cluster, self._limits = cluster, limits
        self._lock = threading.RLock()
        self._peers: dict[int, _Peer] = {}
        self._meetings: dict[str, dict[int, Any]] = {}  # name -> values of those who came
        self._counters: Counter[str] = Counter()  # name -> numbers that were given out
        self._complete = False
        self._ended: dict[str, Any] | None = None  # what all were told
        self._began = time.monotonic()
        server, self.address = listen(cluster.host, cluster.port)
        # others wait while one of them takes nothing
        self._reception = Reception(server, limits.silence / 4, self._serve)
        threading.Thread(target=self._watch, name="rendezvous watches", daemon=True).start()

    def close(self) -> None:
        """Stops listening; whoever is connected sees process 0 gone."""
        self._ended = {}
        self._reception.close()
        for peer in self._peers.values():
            peer.connection.close()

    def _serve(self, newcomer: Newcomer) -> None:
        """Reacts to a process until its connection ends."""
        peer = self._insert(newcomer)
        if peer is None:
            newcomer.connection.close()
            return
        reactions = {
            "beat": self._on_beat,
            "meet": self._on_meet,
            "count": self._on_count,
            "leave": self._on_leave,
        }
        problem = "is gone"
        for message in newcomer.messages:
            with self._lock:
                peer.heard = time.monotonic()
                try:
                    reactions[message["kind"]](peer, message)
                except (KeyError, TypeError, ValueError):
                    problem = f"sent what is no message ({str(message)[:80]!r})"
                    break
        peer.connected = False
        newcomer.connection.close()
        if not peer.left:
            self._end(f"{peer.name} {problem}; it was last seen at: {peer.doing}", _RETRY)

    def _insert(self, newcomer: Newcomer) -> _Peer | None:
        """The newcomer as one of the processes, or None where it has no place among them."""
        index, connection = newcomer.index, newcomer.connection
        peer = _Peer(index, newcomer.host, newcomer.pid, connection, time.monotonic())
        with self._lock:
            wanted = self._cluster.count
            if self._complete:  # a stray start, or the next command's: nobody else's concern
                among = f", {self._peers[index].name} among them" if index in self._peers else ""
                connection.send("no place", line=f"has all its {wanted} processes{among}")
                return None
            if self._ended:  # it comes too late
                connection.send("end", **self._ended)
                return None
            if newcomer.count != wanted:
                why = f"was started as one of {newcomer.count}, process 0 as one of {wanted}"
                return self._refuse(newcomer, f"{peer.name} {why}")
            if index in self._peers:
                other = self._peers[index].name
                why = f"{other} and {peer.name} at {newcomer.address} are both {index}"
                return self._refuse(newcomer, why)
            self._peers[index] = peer
            if len(self._peers) == wanted:
                self._complete = True
                for other in self._peers.values():  # from now on it sends signs of life
                    other.heard = time.monotonic()
                names = [self._peers[n].host for n in range(wanted)]
                self._tell("all", names=names, port=_free_port(self._cluster.port + 1))
        return peer

    def _refuse(self, newcomer: Newcomer, why: str) -> None:
        """Ends the run, where the newcomer belongs to it for certain; else only the newcomer."""
        line = f"{why}; give every process its own --process, and the same --processes to all"
        end = {"line": line, "code": _USAGE, "stuck": False, "patient": False}
        if self._reception.guarded:
            self._end(line, _USAGE)
        else:
            self._reception.turn_away(newcomer.address, why)
        newcomer.connection.send("end", **end)

    def _on_beat(self, peer: _Peer, message: dict[str, Any]) -> None:
        peer.doing, peer.stalled = str(message["doing"]), float(message["stalled"])

    def _on_meet(self, peer: _Peer, message: dict[str, Any]) -> None:
        name = message["name"]
        peer.doing, peer.stalled = str(message["doing"]), 0.0
        values = self._meetings.setdefault(name, {})
        values[peer.index] = message["value"]
        if len(values) == self._cluster.count:
            del self._meetings[name]
            self._tell("values", name=name, values=[values[n] for n in sorted(values)])
        elif len({n for came in self._meetings.values() for n in came}) == self._cluster.count:
            self._end(self._astray(), _ENVIRONMENT, stuck=True)

    def _on_count(self, peer: _Peer, message: dict[str, Any]) -> None:
        name = str(message["name"])
        peer.connection.send("counted", name=name, number=self._counters[name])
        self._counters[name] += 1

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
                self._reception.close_the_late()
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
        absent = [n for n in range(count) if n not in self._peers]
        missing = ", ".join(f"{n}{self._cluster.slice_of(n)}" for n in absent)
        present = ", ".join(self._peers[n].name for n in sorted(self._peers))
        turned_away = self._reception.turned_away
        return (
            f"{len(self._peers)} of {count} processes joined within {self._limits.start:.0f} s; "
            f"missing: process {missing}. Present: {present}. Was the command started on all hosts "
            f"(gcloud: --worker=all, Slurm: srun)? Can they reach {self._cluster.host} at port "
            f"{self._cluster.port}?{turned_away and f' By the way, {turned_away}'}"
        )

    def _end(self, line: str, code: int, stuck: bool = False, patient: bool = False) -> None:
        """Tells all: why, their exit code, whether to show stacks, whether to leave time."""
        with self._lock:
            if self._ended is None:
                self._ended = {"line": line, "code": code, "stuck": stuck, "patient": patient}
                self._tell("end", **self._ended)

    def wait_for_others(self, seconds: float) -> None:
        """Waits until process 0 is the last: JAX's service ends with it, and aborts who is left."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not any(p.connected for p in self._peers.values() if p.index):
                return
            time.sleep(0.05)

    def _tell(self, kind: str, **values: Any) -> None:
        for peer in self._peers.values():
            if not peer.left:
                peer.connection.send(kind, **values)


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
