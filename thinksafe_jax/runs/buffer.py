"""Rows on their way to a store: batched, because each append waits for the disk."""

import time
from typing import Any

from thinksafe_jax.runs.storage import is_mounted
from thinksafe_jax.runs.store import RowStore

# A batch is at most this large and this old. What a kill costs is time, so the age is what counts;
# the size only bounds memory where rows come faster than any model writes them.
ROWS, SECONDS = 512, 2.0
# In a bucket each batch is an object: fewer of them, at the price of half a minute.
BUCKET_ROWS, BUCKET_SECONDS = 4096, 30.0


class RowBuffer:
    """Appends rows to a store in batches; whatever ends the `with` block, all of them arrive."""

    def __init__(self, store: RowStore):
        self._store = store
        self._rows: list[dict[str, Any]] = []
        self._flushed = time.monotonic()
        in_bucket = is_mounted(store.folder)
        self._most = (BUCKET_ROWS, BUCKET_SECONDS) if in_bucket else (ROWS, SECONDS)

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        rows, seconds = self._most
        if len(self._rows) >= rows or time.monotonic() - self._flushed > seconds:
            self._flush()

    def _flush(self) -> None:
        self._store.append(self._rows)
        self._rows.clear()
        self._flushed = time.monotonic()

    def __enter__(self) -> "RowBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
