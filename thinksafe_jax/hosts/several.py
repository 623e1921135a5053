"""Several processes as one group: meeting points, signs of life, a common end."""

import os
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

from thinksafe_jax.errors import EnvironmentFault, RetryLater
from thinksafe_jax.hosts.cluster import Cluster
from thinksafe_jax.hosts.group import Group, nothing
from thinksafe_jax.hosts.hub import Hub
from thinksafe_jax.hosts.limits import Limits
from thinksafe_jax.hosts.watchdog import EXIT_CODE, dump_stacks, give_up
from thinksafe_jax.hosts.wire import Wire

# What a process still gets done by itself after another is lost: its rows reach the disk.
_GRACE = 5.0
_PATIENCE = 30.0  # after another was asked to stop, which is no hurry


class Hosts(Group):
    """Several processes, met at a hub.

    Args:
        hub: in process 0.

    Raises:
        EnvironmentFault: not all came in time; names the missing.
    """

    def __init__(self, cluster: Cluster, limits: Limits, hub: Hub | None = None):
        self._cluster, self.limits, self._hub = cluster, limits, hub
        self._news = threading.Condition()
        self._values: dict[str, list[Any]] = {}
        self._turns: Counter[str] = Counter()  # how often this process has come to each name
        self._all: dict[str, Any] | None = None
        self._end: dict[str, Any] | None = None
        self._left = False
        self._heard = time.monotonic()
        self._wire = _call(cluster, limits)
        _in_background(self._listen)
        who = {"index": cluster.index, "host": socket.gethostname(), "pid": os.getpid()}
        self._wire.send("hello", count=cluster.count, **who)
        everyone = self._roll_call()
        super().__init__(limits)
        self.index, self.count, self.names = cluster.index, cluster.count, everyone["names"]
        self.jax_address = f"{_bracketed(cluster.host)}:{everyone['port']}"
        _in_background(self._keep_alive)

    def _roll_call(self) -> dict[str, Any]:
        with self._news:
            # the hub names who is missing; a little later, it is the hub that is missing
            self._news.wait_for(lambda: self._all or self._end, self.limits.start + 10.0)
        if self._all:
            return self._all
        end = self._end or {"line": f"process 0 does not answer at {_place(self._cluster)}"}
        error = EnvironmentFault(end["line"])
        error.exit_code = end.get("code", error.exit_code)
        self._let_others_go()
        self.close()
        raise error

    def gather(self, name: str, value: Any = None, poll: Callable[[], None] = nothing) -> list:
        self._turns[name] += 1
        key = f"{name}, {self._turns[name]}" if self._turns[name] > 1 else name
        self.check()
        self._wire.send("meet", name=key, value=value, doing=self.watchdog.doing)
        with self.watchdog.waiting(), self._news:
            while not self._news.wait_for(lambda: key in self._values or self._end, 0.5):
                poll()
        if key not in self._values:
            self.check()
        return self._values.pop(key)

    def beat(self, doing: str | None = None) -> None:
        super().beat(doing)
        if doing:
            self._wire.send("beat", doing=doing, stalled=0.0)

    def check(self) -> None:
        if self._end is not None:
            error = RetryLater(_with_advice(self._end))
            error.exit_code = self._end["code"]
            raise error

    def leave(self) -> None:
        import jax

        self.gather("the end")
        self._left = True
        jax.distributed.shutdown()  # a barrier of its own, with a time limit
        self._wire.send("leave", code=0)
        self._let_others_go()
        self.close()

    def close(self) -> None:
        """Cuts the connection: to the others this process is gone, unless it has left before."""
        self._left = True
        self._wire.close()

    def _hear_end(self) -> bool:
        """Whether a process was lost, or is just now."""
        with self._news:
            return bool(self._news.wait_for(lambda: self._end, 2.0))

    def fail(self, why: str, code: int) -> NoReturn:
        """Tells the others, and ends: JAX's own end would wait for them."""
        unforeseen = code == 1
        if unforeseen:
            self._hear_end()  # a collective breaks where another process is lost
        if self._end is None:
            if unforeseen:
                traceback.print_exc()
            self._left = True
            self._wire.send("leave", code=code, why=why)
            self._hear_end()  # so all are told
            unforeseen = False
        self._let_others_go()
        sys.stdout.flush()
        if unforeseen and self._end:
            give_up(_with_advice(self._end), self._end["code"])
        os._exit(code)

    def _listen(self) -> None:
        for message in self._wire.messages():
            self._heard = time.monotonic()
            if message["kind"] == "end" and message["stuck"]:
                dump_stacks()  # before the main thread moves on
            with self._news:
                if message["kind"] == "all":
                    self._all = message
                elif message["kind"] == "values":
                    self._values[message["name"]] = message["values"]
                elif message["kind"] == "end":
                    self._end = message
                self._news.notify_all()
            if message["kind"] == "end":
                self._wind_up(message)
        if not self._left and self._end is None and self._all is not None:
            # JAX's service was in that process as well, and its client is about to abort this one
            give_up(f"process 0 ({self._all['names'][0]}) is gone; {_AGAIN}")

    def _wind_up(self, end: dict[str, Any]) -> None:
        """Gives the main thread a moment to end by itself, unless it hangs in a collective."""
        if self._all is None or self._left:
            return  # the main thread is in `_roll_call`, or has told the others why it ends
        if not end["stuck"]:
            time.sleep(_PATIENCE if end["patient"] else _GRACE)
        if self._left:
            return  # it ended by itself meanwhile
        self._let_others_go()
        give_up(_with_advice(end), end["code"])

    def _let_others_go(self) -> None:
        if self._hub is not None:
            self._hub.wait_for_others(_GRACE + 1.0)

    def _keep_alive(self) -> None:
        while not self._left:
            stalled = self.watchdog.stalled()
            self._wire.send("beat", doing=self.watchdog.doing, stalled=stalled)
            if time.monotonic() - self._heard > self.limits.silence and self._end is None:
                dump_stacks()
                give_up(
                    f"process 0 ({self.names[0]}) has been silent for {self.limits.silence:.0f} s;"
                    f" this process was at: {self.watchdog.doing}. {_AGAIN}"
                )
            time.sleep(1.0)

    def _bark(self, line: str) -> None:
        self._left = True
        self._wire.send("leave", code=EXIT_CODE, why=line)
        self._hear_end()


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=f"hosts {work.__name__}", daemon=True).start()


def _with_advice(end: dict[str, Any]) -> str:
    return f"{end['line']}; {_AGAIN}" if end["code"] == EXIT_CODE else end["line"]


_AGAIN = "run the same command again on all hosts to resume"


def _call(cluster: Cluster, limits: Limits) -> Wire:
    """A connection to process 0, as soon as it listens."""
    host = "localhost" if cluster.index == 0 else cluster.host
    deadline = time.monotonic() + limits.start
    while True:
        try:
            connection = socket.create_connection((host, cluster.port), timeout=10.0)
            connection.settimeout(None)
            return Wire(connection)
        except OSError as error:
            if time.monotonic() > deadline:
                reason = (error.strerror or str(error)).lower()
                raise EnvironmentFault(
                    f"process {cluster.index} of {cluster.count} cannot reach process 0 at "
                    f"{_place(cluster)} (from {cluster.found_by}): {reason}, for "
                    f"{limits.start:.0f} s. Is it started there, and the port open?"
                ) from None
            time.sleep(0.2)


def _place(cluster: Cluster) -> str:
    return f"{_bracketed(cluster.host)}:{cluster.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
