"""Keeping the rows of an evaluation: one by one, with progress, heeding a request to stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from thinksafe_jax.runs import RowBuffer, RowStore
from thinksafe_jax.terminal import Progress

Log = Callable[..., None]  # Run.log: log(stage, **values)
CheckStop = Callable[[], None]  # Run.check_stop


@dataclass(frozen=True)
class Journal:
    """Where an evaluation says what it does.

    Attributes:
        name: of the evaluation: before, after or model.
        log: writes a line of metrics.
        check_stop: raises `Terminated` when the run was asked to stop; what is done is kept.
    """

    name: str
    log: Log
    check_stop: CheckStop

    @contextmanager
    def keeping(self, store: RowStore, doing: str, total: int) -> Iterator[Callable[[dict], None]]:
        """A function that keeps one row in the store; when all are kept, a line is logged.

        Args:
            doing: sample | judge.
            total: rows to come.
        """
        began = time.monotonic()
        rows = tokens = 0
        with Progress(f"evaluate {self.name}: {doing}", total) as bar, RowBuffer(store) as buffer:

            def keep(row: dict) -> None:
                nonlocal rows, tokens
                buffer.add(row)
                rows, tokens = rows + 1, tokens + row.get("tokens", 0)
                bar.advance()
                self.check_stop()

            yield keep
        facts = {"tokens": tokens} if tokens else {}
        seconds = round(time.monotonic() - began, 3)
        self.log("evaluate", name=self.name, doing=doing, rows=rows, seconds=seconds, **facts)
