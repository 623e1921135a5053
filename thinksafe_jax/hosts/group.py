"""The processes of a run as each of them sees them; here the group of one."""

import socket
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

from thinksafe_jax.hosts.time_limits import Limits
from thinksafe_jax.hosts.watchdog import Watchdog

T = TypeVar("T")


def nothing() -> None:
    """Does nothing: what is polled while waiting, by default."""


class Group:
    """All processes of the run: here a group of one; `ConnectedGroup` is that of several.

    Attributes:
        index: of this process.
        count: how many there are.
        names: host of each, with its slice where there are several, as "tpu-a, slice 1".
        limits: on time.
    """

    def __init__(self, limits: Limits | None = None):
        self.index, self.count, self.names = 0, 1, [socket.gethostname()]
        self.limits = limits or Limits(step=0.0)
        self.watchdog = Watchdog(self.limits.step, self._report_stall)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.index == 0

    def gather(self, name: str, value: Any = None, poll: Callable[[], None] = nothing) -> list:
        """A value of every process, in their order; all must call it, with JSON values.

        It waits as long as those that are missing make progress (`Limits.step`).

        Args:
            poll: called twice a second while waiting; it may raise.

        Raises:
            RetryLater: a process was lost meanwhile.
        """
        return [value]

    def barrier(self, name: str, poll: Callable[[], None] = nothing) -> None:
        """Waits until all processes are here; see `gather`."""
        self.gather(name, None, poll)

    def decide(self, name: str, value: Any = None) -> Any:
        """The value of process 0; the others' is ignored."""
        return self.gather(name, value if self.first else None)[0]

    def in_turn(self, name: str, work: Callable[[], T], look: Callable[[], None] = nothing) -> T:
        """`work` in process 0, then in the others, which find what it left behind.

        Args:
            look: called by the others before `work`, as `storage.refresh` where it lies in a
                bucket.
        """
        if not self.first:
            self.barrier(name)
            look()
            return work()
        done = work()
        self.barrier(name)
        return done

    def counter(self, name: str) -> Callable[[], int]:
        """Gives 0, 1, 2 ... when called: each number to one process, the one that asks first.

        Every process opens it; a name that is used again is another counter.

        Raises:
            RetryLater: when it is called, and a process was lost.
        """
        return count().__next__

    def beat(self, doing: str | None = None) -> None:
        """Progress was made; see `Watchdog.beat`."""
        self.watchdog.beat(doing)

    def check(self) -> None:
        """Call between units of work, when they are saved.

        Raises:
            RetryLater: a process was lost.
        """

    def leave(self) -> None:
        """The run is done."""

    def fail(self, why: str, code: int) -> None:
        """This process is about to end early: the others are told. Returns in a group of one."""

    def describe(self, index: int) -> str:
        return f"process {index} ({self.names[index]})"

    def _report_stall(self, line: str) -> None:
        """Tells the others that this process is stuck; of one there are none."""
