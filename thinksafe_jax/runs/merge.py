"""Rows of several processes in one store: complete before anybody reads them as a whole."""

import time
from collections.abc import Callable
from typing import Any

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.hosts import Group
from thinksafe_jax.runs.storage import refresh
from thinksafe_jax.runs.store import RowStore


def wait_for_rows(
    group: Group, store: RowStore, mine: Callable[[Any], bool], poll: Callable[[], None]
) -> None:
    """Until all processes have written their rows and the first of them sees every one.

    Args:
        store: what all of them write to.
        mine: whether a key is of this process's part.
        poll: `Run.check_stop`.

    Raises:
        EnvironmentFault: the first process still misses some after `Limits.lag`.
        RetryLater: a process was lost meanwhile.
    """
    if group.count == 1:
        return
    name, own = store.folder.name, sum(map(mine, store.keys()))
    total = sum(group.gather(f"rows of {name}", own, poll))
    refresh(store.folder)
    deadline = time.monotonic() + group.limits.lag
    while group.first and (seen := len(store.keys())) < total:
        if time.monotonic() > deadline:
            raise EnvironmentFault(
                f"{store.folder}: the processes have written {total} rows, {group.describe(0)} "
                f"sees {seen}; is the run directory on storage that all of them share?"
            )
        poll()
        time.sleep(1.0)
        refresh(store.folder)
    group.barrier(f"{name} complete", poll)
