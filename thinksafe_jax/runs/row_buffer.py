"""Rows on their way to a store, in batches: few waits for the disk, little lost by a kill."""

import time
from collections.abc import Callable
from typing import Any

from thinksafe_jax.runs.row_store import Location, RowStore
from thinksafe_jax.storage import is_mounted

# A batch is at most this large and this old. What a kill costs is time, so the age is what counts;
# the size only bounds memory where rows come faster than any model writes them.
ROWS, SECONDS = 512, 2.0


# In a bucket each batch is an object: fewer of them, at the price of half a minute.
BUCKET_ROWS, BUCKET_SECONDS = 4096, 30.0


class RowBuffer:
    """Appends rows to a store in batches; whatever ends the `with` block, all of them arrive.

    Args:
        placed: told of each row where it lies, once it is safe.
    """

    def __init__(
        self, store: RowStore, placed: Callable[[dict[str, Any], Location], None] | None = None
    ):
        self._store, self._placed = store, placed
        self._rows: list[dict[str, Any]] = []
        self._flushed = time.monotonic()
        in_bucket = is_mounted(store.folder)
        self._most = (BUCKET_ROWS, BUCKET_SECONDS) if in_bucket else (ROWS, SECONDS)

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        rows, seconds = self._most
        if len(self._rows) >= rows or time.monotonic() - self._flushed > seconds:
            self.flush()

    def flush(self) -> None:
        """Appends what is held back; then it is safe."""
        places = self._store.append(self._rows)
        if self._placed is not None:
            for row, place in zip(self._rows, places, strict=True):
                self._placed(row, place)
        self._rows.clear()
        self._flushed = time.monotonic()

    def __enter__(self) -> "RowBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
