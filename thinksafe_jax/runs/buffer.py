"""Rows on their way to a store: batched, because each append waits for the disk."""

import time
from typing import Any

from thinksafe_jax.runs.store import RowStore

# A batch is at most this large and this old. What a kill costs is time, so the age is what counts;
# the size only bounds memory where rows come faster than any model writes them.
ROWS, SECONDS = 512, 2.0


class RowBuffer:
    """Appends rows to a store in batches; whatever ends the `with` block, all of them arrive."""

    def __init__(self, store: RowStore):
        self._store = store
        self._rows: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS or time.monotonic() - self._flushed > SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._store.append(self._rows)
        self._rows.clear()
        self._flushed = time.monotonic()

    def __enter__(self) -> "RowBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
