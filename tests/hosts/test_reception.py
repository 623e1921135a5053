"""Strangers at the port of the rendezvous: turned away, logged, and nobody's end."""

import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from tests.hosts.test_group import LIMITS, together
from tests.support import free_port
from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.hosts import reception
from thinksafe_jax.hosts.cluster import Cluster
from thinksafe_jax.hosts.connected_group import ConnectedGroup
from thinksafe_jax.hosts.rendezvous import Rendezvous
from thinksafe_jax.hosts.secret import VARIABLE, is_proven, make_nonce, prove
from thinksafe_jax.hosts.time_limits import Limits

HELLO = {"kind": "hello", "index": 1, "count": 2, "host": "stranger", "pid": 1}


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv(VARIABLE, "kept by the launcher")
    return b"kept by the launcher"


@pytest.fixture(autouse=True)
def sockets():
    """Those of strangers, closed at the end."""
    yield
    while Stranger.opened:
        Stranger.opened.pop().close()


class Stranger:
    """A connection to the port of a rendezvous, and the nonce that it was given."""

    opened: ClassVar[list] = []

    def __init__(self, port: int):
        deadline = time.monotonic() + 10
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
                break
            except OSError:
                assert time.monotonic() < deadline
        self.lines = self.socket.makefile("rb")
        self.opened += [self.lines, self.socket]
        self.nonce = self.hear()["nonce"]

    def hear(self) -> dict:
        """The next message; empty at the end of the connection."""
        try:
            return json.loads(self.lines.readline() or b"{}")
        except ConnectionError:
            return {}

    def say(self, data) -> dict:
        """What is answered to a line, or to raw bytes."""
        self.socket.sendall(data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n")
        return self.hear()


def hello(stranger: Stranger, secret: bytes = b"", **changes) -> dict:
    return {**HELLO, "proof": prove(secret, stranger.nonce), **changes}


def strangers_first(port: int, act) -> list:
    """What two processes gather that join while `act(port)` is at the door before the second."""

    def work(group):
        return group.gather("rows", group.index)

    return together(work, count=2, port=port, before_second=lambda: act(port))


MALFORMED = {
    "no JSON": b"GET / HTTP/1.1\r\n\r\n",
    "no object": b"[1, 2]\n",
    "deep": b"[" * 4000 + b"\n",
    "no kind": b'{"index": 1}\n',
    "not UTF-8": b'{"kind": "\xff"}\n',
    "another kind": {"kind": "beat", "doing": "", "stalled": 0},
    "no proof": HELLO,
    "a proof that is no text": {**HELLO, "proof": 7},
    "another's proof": {**HELLO, "proof": prove(b"another", "00")},
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED.keys())
def test_who_does_not_know_the_secret_is_turned_away(secret, line):
    def act(port):
        answer = Stranger(port).say(line)
        assert answer.get("kind") in (None, "no place")

    assert strangers_first(free_port(), act) == [[0, 1], [0, 1]]


WRONG_FACTS = {
    "count": {"count": 3},
    "index": {"index": 7},
    "negative": {"index": -1},
    "number as text": {"index": "1"},
    "boolean": {"index": True},
    "no host": {"host": None},
    "escapes": {"host": "\x1b[2J"},
    "long host": {"host": "x" * 300},
    "pid": {"pid": None},
    "taken": {"index": 0},
}


@pytest.mark.parametrize("changes", WRONG_FACTS.values(), ids=WRONG_FACTS.keys())
def test_without_a_secret_a_wrong_hello_ends_nobody_either(changes):
    """Case S03: a wrong count, a wrong index, a place that is taken."""

    def act(port):
        stranger = Stranger(port)
        assert stranger.say(hello(stranger, **changes)).get("kind") in (None, "end")

    assert strangers_first(free_port(), act) == [[0, 1], [0, 1]]


def test_a_stranger_costs_a_short_line_and_a_few_seconds(monkeypatch, secret):
    """A line of 63 MB is cut off at 4 kB; who says nothing is, after a while."""
    monkeypatch.setattr(reception, "_HELLO_SECONDS", 0.5)
    port = free_port()
    rendezvous = Rendezvous(Cluster("127.0.0.1", port, 2, 0, "a test"), LIMITS)
    long, silent = Stranger(port), Stranger(port)
    with pytest.raises(OSError):
        for _ in range(63):
            long.socket.sendall(b"x" * 2**20)
    assert silent.hear() == {}  # the connection ends
    rendezvous.close()


def test_many_who_say_nothing_take_no_place_from_those_who_belong(monkeypatch, secret):
    monkeypatch.setattr(reception, "_MOST_STRANGERS", 4)
    silent = []

    def act(port):
        silent.extend(Stranger(port) for _ in range(9))

    assert strangers_first(free_port(), act) == [[0, 1], [0, 1]]
    assert silent[0].hear() == {}


def test_who_was_turned_away_is_logged_and_said_with_who_is_missing(secret, caplog):
    port, limits = free_port(), Limits(start=3.0, silence=20.0, step=0.0)
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: Stranger(port).say(HELLO))
        errors = together(lambda group: None, 2, limits, indices=[0], port=port)
    assert "missing: process 1." in str(errors[0])
    assert "one connection was turned away, the last from 127.0.0.1: it does not prove" in str(
        errors
    )
    assert "turned away a connection from 127.0.0.1" in caplog.text


def test_a_process_with_another_secret_hears_why_it_has_no_place(secret, monkeypatch):
    port = free_port()
    rendezvous = Rendezvous(Cluster("127.0.0.1", port, 2, 0, "a test"), LIMITS)
    monkeypatch.setenv(VARIABLE, "another")
    with pytest.raises(EnvironmentFault, match=f"no place .* its {VARIABLE} is another"):
        ConnectedGroup(Cluster("127.0.0.1", port, 2, 1, "a test"), Limits(start=0.1))
    rendezvous.close()


def test_the_secret_never_crosses_the_network_and_a_proof_serves_once(secret):
    first, second = make_nonce(), make_nonce()
    proof = prove(secret, first)
    assert secret.decode() not in proof and first != second
    assert is_proven(secret, first, proof) and not is_proven(secret, second, proof)
    assert not is_proven(secret, first, None) and not is_proven(secret, first, "ü")


def test_it_listens_at_the_coordinators_address_alone():
    rendezvous = Rendezvous(Cluster("127.0.0.1", free_port(), 2, 0, "a test"), LIMITS)
    assert rendezvous.address == "127.0.0.1"
    rendezvous.close()


def test_it_listens_everywhere_where_the_coordinator_has_no_address_here(caplog):
    """As behind a forwarded port; TEST-NET-1 belongs to nobody."""
    with caplog.at_level(logging.INFO):
        rendezvous = Rendezvous(Cluster("192.0.2.1", free_port(), 2, 0, "a test"), LIMITS)
    assert rendezvous.address == "" and "192.0.2.1 is none of them" in caplog.text
    rendezvous.close()


def test_a_member_that_sends_what_is_no_message_is_named(secret):
    """Its thread in process 0 does not die of it."""
    port = free_port()

    def send_half_a_message():
        member = Stranger(port)
        assert member.say(hello(member, secret))["kind"] == "all"
        member.socket.sendall(b'{"kind": "meet"}\n')
        return member

    with ThreadPoolExecutor(1) as threads:
        threads.submit(send_half_a_message)
        (error,) = together(lambda group: group.barrier("begin"), 2, indices=[0], port=port)
    assert "process 1 (stranger, pid 1) sent what is no message" in str(error)
