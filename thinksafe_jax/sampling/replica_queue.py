"""One queue over replicas that run apart: a request begins where the fewest rows are.

    queue  a b c d e f          replicas of 4 slots
           │ │ │ │ └─┼──► 0:  a d          the one that asks first has room for four,
           │ │ └─┼───┼──► 1:  b e          and would leave nothing to the others
           │ └───┼───┼──► ...

Where there are more requests than slots, a replica takes the next one when a slot is free. Where
pages of the cache are scarce a slot is not enough: a replica without room for the prompt, or with
rows that wait for pages themselves, would keep it waiting while another has room.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from thinksafe_jax.sampling.requests import Request


class _Replica(Protocol):
    """What is needed of `Scheduler`."""

    @property
    def unfinished(self) -> int: ...

    def can_begin(self, requests: Sequence[Request]) -> bool: ...


def deal_to_replicas(
    requests: Iterator[Request | None], replicas: Sequence[_Replica], count: int
) -> list[Iterator[Request | None]]:
    """The queue of each replica.

    Args:
        requests: of all of them; taken from as a replica asks.
        replicas: filled by the caller before it takes from a queue.
        count: of replicas, all with as many slots.
    """
    if count == 1:
        return [requests]
    dealt: list[deque[Request]] = [deque() for _ in range(count)]

    def rows(n: int) -> int:
        return replicas[n].unfinished + len(dealt[n])

    def taker(request: Request, asking: int) -> int:
        """The replica with the fewest rows that can begin it beside what it is dealt."""
        by_rows = sorted(range(count), key=lambda n: (rows(n), n != asking))
        return next(
            n for n in by_rows if n == asking or replicas[n].can_begin([*dealt[n], request])
        )

    def queue(asking: int) -> Iterator[Request | None]:
        while True:
            if dealt[asking]:
                yield dealt[asking].popleft()
                continue
            try:
                request = next(requests)
            except StopIteration:
                return
            if request is None:
                yield None
                continue
            dealt[taker(request, asking)].append(request)

    return [queue(n) for n in range(count)]
