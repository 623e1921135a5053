"""One queue over all processes, so that they end together whatever their items turn out to cost.

    items      0 1 2 3 4 5 | 6 7 8 9 ...
    process 0  0   2   4   |   7                 dealt by turns: what all can begin at once
    process 1    1   3   5 | 6   8 ...           then each takes the next one when it is free

Who asks for an item tells the rendezvous, which counts. Nothing else is sent, and nobody waits.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from thinksafe_jax.hosts.group import Group

T = TypeVar("T")


def shared_queue(group: Group, name: str, items: Sequence[T], at_once: int) -> Iterator[T]:
    """The items that this process takes; every item goes to exactly one process.

    All processes must call it, with the same arguments.

    Args:
        name: of the queue; one that is used again is another queue.
        items: in the order in which they are to begin.
        at_once: how many a process works on at a time. As many are dealt out beforehand, at most:
            a process that asks for so many at once would leave none to the others.

    Raises:
        RetryLater: at an item, where a process was lost meanwhile.
    """
    dealt = min(at_once, len(items) // group.count) * group.count
    # opened here, and not when the first item is taken: some process may take none
    take_next = group.counter(name)

    def take() -> Iterator[T]:
        yield from items[group.index : dealt : group.count]
        while (number := dealt + take_next()) < len(items):
            yield items[number]

    return take()
