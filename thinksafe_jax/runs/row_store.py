"""Rows in JSONL shards: the unit of durability. What was appended is on the disk, or is redone."""

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError, quoted
from thinksafe_jax.hosts import Group
from thinksafe_jax.runs import faults
from thinksafe_jax.storage import (
    drop_torn_tail,
    is_mounted,
    parse,
    persist,
    refresh,
    sound_length,
    storage_errors,
    sync_folder,
    to_line,
)

log = logging.getLogger(__name__)
_KEY_TYPES = str | int | float  # what can name a row: neither lists nor mappings
Location = tuple[str, int]  # (file name of the shard, byte offset of the line)


class RowStore:
    """A folder of `part-00000.jsonl` shards with rows that have a key.

    One process writes, or one for each name of a writer (the run's locks see to it); any may read
    meanwhile. A torn last line is ignored by readers and cut off before the first append. Rows
    whose key was seen before are left out and counted: the first one stands.

    Args:
        folder: made on the first append.
        key: the fields that name a row; with several, keys are tuples.
        fields: {field: its type} of what readers need in every row, beside the key.
        skip_bad_rows: count unreadable lines instead of stopping at the first.
        shard_bytes: a shard that has reached this size is followed by a new one; in a bucket, where
            nothing can be appended to, every append is a shard of its own.
        writer: of several that write at the same time, each has shards `part-WRITER-00000.jsonl`.

    Attributes:
        duplicates, bad_rows: counts of the last complete reading.
    """

    def __init__(
        self,
        folder: Path | str,
        key: tuple[str, ...] = ("id",),
        *,
        fields: Mapping[str, type] | None = None,
        skip_bad_rows: bool = False,
        shard_bytes: int = 256 * 2**20,
        writer: str = "",
    ):
        self.folder, self.key = Path(folder), key
        self._fields = dict.fromkeys(key, _KEY_TYPES) | dict(fields or {})
        self.skip_bad_rows, self.shard_bytes = skip_bad_rows, shard_bytes
        self.writer, self._prefix = writer, f"part-{writer}-" if writer else "part-"
        self.duplicates = self.bad_rows = 0
        self._shard: Path | None = None  # the one being written, once repaired

    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"))

    def append(self, rows: Iterable[dict[str, Any]]) -> list[Location]:
        """Write a batch of rows and wait until the disk (and the bucket, for a run in one) has it.

        Returns:
            Where each row lies, for `rows_at`.

        Raises:
            EnvironmentFault: disk full or not writable; the rows before this batch are intact.
            ValueError: a row lacks a key field.
        """
        batch = list(rows)
        for row in batch:
            if missing := [name for name in self.key if name not in row]:
                raise ValueError(f"{self.folder}: row without {', '.join(missing)}: {row!r:.200}")
        if not batch:
            return []
        lines = [to_line(row) for row in batch]
        shard = self._writable_shard()
        with storage_errors(shard):
            start = _append_synced(shard, b"".join(lines))
        faults.after_write()
        persist(shard)
        name = sys.intern(shard.name)  # one text for all the places in a shard
        starts = accumulate((len(line) for line in lines[:-1]), initial=start)
        return [(name, offset) for offset in starts]

    def rows(self, since: Mapping[str, int] | None = None) -> Iterator[dict[str, Any]]:
        """Every row in the order written, one at a time.

        Args:
            since: leave out what was there when `ends` gave this.

        Raises:
            InputError: with file and line, for a line that is no row (unless `skip_bad_rows`).
        """
        return (row for _, row in self.located(since))

    def ends(self) -> dict[str, int]:
        """Where each shard ends now, for a later `rows(since=...)`."""
        return {shard.name: sound_length(shard) for shard in self.shards()}

    def rows_at(self, locations: Iterable[Location]) -> Iterator[dict[str, Any]]:
        """The rows at places that `located` gave, one at a time."""
        with ExitStack() as files:
            shards: dict[str, Any] = {}
            for name, offset in locations:
                if name not in shards:
                    shards[name] = files.enter_context((self.folder / name).open("rb"))
                shards[name].seek(offset)
                row = parse(shards[name].readline())
                assert row is not None, f"{self.folder / name}: no row at byte {offset}"
                yield row

    def located(
        self, since: Mapping[str, int] | None = None
    ) -> Iterator[tuple[Location, dict[str, Any]]]:
        """As `rows`, each with its place, so that few rows need to be held at once."""
        seen: set[Hashable] = set()
        duplicates = bad = 0
        for shard in self.shards():
            name = sys.intern(shard.name)
            for offset, row in _complete_lines(shard, (since or {}).get(name, 0)):
                problem = (
                    "not a JSON object with each key once" if row is None else self._problem(row)
                )
                if row is None or problem:
                    bad += 1
                    self._refuse(shard, offset, problem)
                    continue
                key = self._key_of(row)
                duplicates += key in seen
                if key not in seen:
                    seen.add(key)
                    yield (name, offset), row
        self.duplicates, self.bad_rows = duplicates, bad
        if duplicates or bad:
            log.warning("%s: %d duplicate and %d bad rows left out", self.folder, duplicates, bad)

    def read(self) -> list[dict[str, Any]]:
        """All rows; see `rows`."""
        return list(self.rows())

    def written_by(self, *writers: str) -> int:
        """How many rows lie in the shards of some writers."""
        shards = [shard for shard in self.shards() if _writer_of(shard.name) in writers]
        return sum(1 for shard in shards for _ in _complete_lines(shard, 0))

    def keys(self) -> set[Any]:
        """The keys of all rows: values of the key field, or tuples of several."""
        return {self._key_of(row) for row in self.rows()}

    def _key_of(self, row: dict[str, Any]) -> Hashable:
        values = tuple(row[k] for k in self.key)
        return values[0] if len(values) == 1 else values

    def _problem(self, row: dict[str, Any]) -> str:
        """What is wrong with the fields of a row; "" for nothing."""
        for name, kind in self._fields.items():
            if not isinstance(row.get(name), kind):
                break
        else:  # of nearly all rows
            return ""
        if missing := [name for name in self._fields if name not in row]:
            return f"no {' and '.join(missing)} in the row (of another version, or edited?)"
        return f"{name} is {json.dumps(row[name])[:40]}, which cannot be"

    def _refuse(self, shard: Path, offset: int, problem: str) -> None:
        if not self.skip_bad_rows:
            with shard.open("rb") as file:
                line = 1 + file.read(offset).count(b"\n")
            raise InputError(
                f"{shard}:{line}: {problem}; repair or delete the line, or leave it out with "
                "--skip-bad-rows"
            )

    def _writable_shard(self) -> Path:
        if self._shard is None:
            pattern = re.compile(re.escape(self._prefix) + r"\d{5}\.jsonl")
            existing = [shard for shard in self.shards() if pattern.fullmatch(shard.name)]
            with storage_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)  # the append proves it writable
                for shard in existing:
                    drop_torn_tail(shard)
            if not existing:
                self._shard = self._part(0)
                return self._shard
            self._shard = existing[-1]
        if is_mounted(self.folder) or self._shard.stat().st_size >= self.shard_bytes:
            self._shard = self._part(int(self._shard.stem.removeprefix(self._prefix)) + 1)
        return self._shard

    def _part(self, number: int) -> Path:
        return self.folder / f"{self._prefix}{number:05d}.jsonl"


def _writer_of(shard: str) -> str:
    """Who writes a shard, by its file name; "" for a process that is alone."""
    return shard.removeprefix("part-").rpartition("-")[0]


def _append_synced(shard: Path, data: bytes) -> int:
    """Returns the offset at which the data begins."""
    created = not shard.exists()
    with shard.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            faults.tear_write(file, data)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)  # whole batches only: half of one would be read as a torn line
            raise
    if created:
        sync_folder(shard.parent)
    return before


def _complete_lines(shard: Path, offset: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(offset, row or None) for each line from `offset` on, neither blank nor a torn last one."""
    left, size = sound_length(shard), shard.stat().st_size
    if left < size:
        log.warning("%s: a torn last line (%d bytes) is left out", shard, size - left)
    with shard.open("rb") as file:
        file.seek(offset)
        for line in file:
            if offset + len(line) > left:
                return
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield offset, parse(line)
            offset += len(line)


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`; numbers begin at 0.

    A row belongs to a part by a hash of its id, so no host needs to know of the others. Processes
    that have joined share a queue instead (`hosts.shared_queue`), and a row is of who wrote it. The
    number of parts may change from one start to the next: what is done is read from all of them.
    """

    number: int = 0
    of: int = 1

    @staticmethod
    def parse(text: str) -> "Part":
        """From "2/8".

        Raises:
            ConfigError: not of that form, or a number outside.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise ConfigError(
                f"part {quoted(text, 200)}: expected NUMBER/PARTS from 0/8 to 7/8, for eight hosts"
            )
        return Part(int(match[1]), int(match[2]))

    def __contains__(self, id: str) -> bool:
        digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number

    def follows_up(self, id: str, shard: str) -> bool:
        """Whether this part goes on with a row that lies in a shard, as by asking the guard.

        It is the part that wrote it; of rows by others than the parts of today the hash decides.
        """
        writer = _writer_of(shard)
        ours = self.of > 1 and writer.endswith(f"of{self.of}")
        return writer == self.name if ours else id in self

    @property
    def name(self) -> str:
        """For file names; empty for the whole."""
        return f"{self.number}of{self.of}" if self.of > 1 else ""


WHOLE = Part()


def wait_for_rows(group: Group, store: RowStore, poll: Callable[[], None]) -> None:
    """Until all processes have written their rows and the first of them sees every one.

    Args:
        store: what all of them write to, each under the name of its part.
        poll: `Run.check_stop`.

    Raises:
        EnvironmentFault: the first process still misses some after `Limits.lag`.
        RetryLater: a process was lost meanwhile.
    """
    if group.count == 1:
        return
    name = store.folder.name
    total = sum(group.gather(f"rows of {name}", store.written_by(store.writer), poll))
    writers = [Part(index, group.count).name for index in range(group.count)]
    refresh(store.folder)
    deadline = time.monotonic() + group.limits.lag
    while group.first and (seen := store.written_by(*writers)) < total:
        if time.monotonic() > deadline:
            raise EnvironmentFault(
                f"{store.folder}: the processes have written {total} rows, {group.describe(0)} "
                f"sees {seen}; is the run directory on storage that all of them share?"
            )
        poll()
        time.sleep(1.0)
        refresh(store.folder)
    group.barrier(f"{name} complete", poll)
