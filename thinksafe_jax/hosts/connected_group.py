"""Several processes as one group: meeting points, signs of life, a common end."""

import os
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
from thinksafe_jax.hosts.rendezvous import Rendezvous
from thinksafe_jax.hosts.rendezvous_client import join_rendezvous
from thinksafe_jax.hosts.time_limits import Limits
from thinksafe_jax.hosts.watchdog import EXIT_CODE, abort, dump_stacks

# What a process still gets done by itself after another is lost: its rows reach the disk.
_GRACE = 5.0
_PATIENCE = 30.0  # after another was asked to stop, which is no hurry


class ConnectedGroup(Group):
    """Several processes, each connected to the rendezvous in process 0.

    Args:
        rendezvous: in process 0.

    Raises:
        EnvironmentFault: not all came in time; names the missing.
    """

    def __init__(self, cluster: Cluster, limits: Limits, rendezvous: Rendezvous | None = None):
        self.limits, self._rendezvous = limits, rendezvous
        self._news = threading.Condition()
        self._values: dict[str, list[Any]] = {}
        self._counted: dict[str, int] = {}  # what the rendezvous gave of each counter
        self._turns: Counter[str] = Counter()  # how often this process has come to each name
        self._end: dict[str, Any] | None = None
        self._left = False
        try:
            joined = join_rendezvous(cluster, limits, self._address(cluster))
        except EnvironmentFault:
            self._let_others_go()
            raise
        self._connection, self._messages, everyone = joined
        self._heard = time.monotonic()
        super().__init__(limits)
        self.index, self.count, self.names = cluster.index, cluster.count, everyone["names"]
        self.jax_port = everyone["port"]
        _in_background(self._listen)
        _in_background(self._keep_alive)

    def _address(self, cluster: Cluster) -> str:
        """Where this process reaches process 0."""
        if self._rendezvous is None:
            return cluster.host
        return self._rendezvous.address or "localhost"

    def gather(self, name: str, value: Any = None, poll: Callable[[], None] = nothing) -> list:
        key = self._turn(name)
        self.check()
        self._connection.send("meet", name=key, value=value, doing=self.watchdog.doing)
        with self.watchdog.waiting(), self._news:
            while not self._news.wait_for(lambda: key in self._values or self._end, 0.5):
                poll()
        if key not in self._values:
            self.check()
        return self._values.pop(key)

    def _turn(self, name: str) -> str:
        """The name, with how often this process has come to it."""
        self._turns[name] += 1
        return f"{name}, {self._turns[name]}" if self._turns[name] > 1 else name

    def counter(self, name: str) -> Callable[[], int]:
        key = self._turn(f"count {name}")

        def next_number() -> int:
            self.check()
            self._connection.send("count", name=key)
            with self.watchdog.waiting(), self._news:
                self._news.wait_for(lambda: key in self._counted or self._end)
            if key not in self._counted:
                self.check()
            return self._counted.pop(key)

        return next_number

    def beat(self, doing: str | None = None) -> None:
        super().beat(doing)
        if doing:
            self._connection.send("beat", doing=doing, stalled=0.0)

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
        self._connection.send("leave", code=0)
        self._let_others_go()
        self.close()

    def close(self) -> None:
        """Cuts the connection: to the others this process is gone, unless it has left before."""
        self._left = True
        self._connection.close()

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
            self._connection.send("leave", code=code, why=why)
            self._hear_end()  # so all are told
            unforeseen = False
        self._let_others_go()
        sys.stdout.flush()
        if unforeseen and self._end:
            abort(_with_advice(self._end), self._end["code"])
        os._exit(code)

    def _listen(self) -> None:
        for message in self._messages:
            self._heard = time.monotonic()
            if message["kind"] == "end" and message["stuck"]:
                dump_stacks()  # before the main thread moves on
            with self._news:
                if message["kind"] == "values":
                    self._values[message["name"]] = message["values"]
                elif message["kind"] == "counted":
                    self._counted[message["name"]] = message["number"]
                elif message["kind"] == "end":
                    self._end = message
                self._news.notify_all()
            if message["kind"] == "end":
                self._wind_up(message)
        if not self._left and self._end is None:
            # JAX's service was in that process as well, and its client is about to abort this one
            abort(f"process 0 ({self.names[0]}) is gone; {_AGAIN}")

    def _wind_up(self, end: dict[str, Any]) -> None:
        """Gives the main thread a moment to end by itself, unless it hangs in a collective."""
        if self._left:
            return  # the main thread has told the others why it ends
        if not end["stuck"]:
            time.sleep(_PATIENCE if end["patient"] else _GRACE)
        if self._left:
            return  # it ended by itself meanwhile
        self._let_others_go()
        abort(_with_advice(end), end["code"])

    def _let_others_go(self) -> None:
        if self._rendezvous is not None:
            patient = self._end is not None and self._end["patient"]
            self._rendezvous.wait_for_others((_PATIENCE if patient else _GRACE) + 1.0)

    def _keep_alive(self) -> None:
        while not self._left:
            stalled = self.watchdog.stalled()
            self._connection.send("beat", doing=self.watchdog.doing, stalled=stalled)
            if time.monotonic() - self._heard > self.limits.silence and self._end is None:
                dump_stacks()
                abort(
                    f"process 0 ({self.names[0]}) has been silent for {self.limits.silence:.0f} s;"
                    f" this process was at: {self.watchdog.doing}. {_AGAIN}"
                )
            time.sleep(1.0)

    def _report_stall(self, line: str) -> None:
        self._left = True
        self._connection.send("leave", code=EXIT_CODE, why=line)
        self._hear_end()
        self._let_others_go()


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=f"hosts {work.__name__}", daemon=True).start()


def _with_advice(end: dict[str, Any]) -> str:
    return f"{end['line']}; {_AGAIN}" if end["code"] == EXIT_CODE else end["line"]


_AGAIN = "run the same command again on all hosts to resume"
