"""Rows survive kills, edits and strange text (faults 2, 15, 22, 23, 39)."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.runs import RowStore


def row(i: int, **more) -> dict:
    return {"id": f"r{i}", "response": f"text {i}", **more}


@pytest.fixture
def store(tmp_path) -> RowStore:
    return RowStore(tmp_path / "samples")


def shard(store: RowStore):
    return store.folder / "part-00000.jsonl"


def test_rows_come_back_in_order_with_their_keys(store):
    store.append([row(1), row(2)])
    store.append([row(3)])
    assert RowStore(store.folder).read() == [row(1), row(2), row(3)]
    assert store.keys() == {"r1", "r2", "r3"}


def test_an_absent_or_empty_store_has_no_rows(store):
    assert store.read() == []
    store.append([])
    assert not store.folder.exists()


def test_keys_of_several_fields_are_tuples(tmp_path):
    store = RowStore(tmp_path, key=("id", "attempt"))
    store.append([row(1, attempt=1), row(1, attempt=2), row(1, attempt=1)])
    assert store.keys() == {("r1", 1), ("r1", 2)}
    assert store.duplicates == 1


def test_a_row_without_its_key_is_never_written(store):
    with pytest.raises(ValueError, match="row without id"):
        store.append([row(1), {"response": "x"}])
    assert store.read() == []


def test_full_shards_are_followed_by_new_ones(tmp_path):
    store = RowStore(tmp_path, shard_bytes=60)
    for i in range(5):
        store.append([row(i)])
    assert [s.name for s in store.shards()] == [f"part-0000{i}.jsonl" for i in range(3)]
    again = RowStore(tmp_path, shard_bytes=60)
    again.append([row(5)])
    assert [r["id"] for r in again.read()] == [f"r{i}" for i in range(6)]


@pytest.mark.parametrize(
    "tail",
    [b'{"id": "r3", "resp', b'{"id": "r3"}', b"\x00\x00\x00", b"\x00\x00\n", b'{"id": "r3", \n'],
    ids=["half", "no newline", "zeros", "zero line", "half line"],
)
def test_a_torn_tail_is_ignored_by_readers_and_cut_by_the_next_append(store, tail, caplog):
    store.append([row(1), row(2)])
    whole = shard(store).read_bytes()
    shard(store).write_bytes(whole + tail)
    again = RowStore(store.folder)
    with caplog.at_level(logging.WARNING):
        assert again.read() == [row(1), row(2)]
        assert shard(store).read_bytes() == whole + tail, "reading must change nothing"
        again.append([row(3)])
    assert again.read() == [row(1), row(2), row(3)]
    assert "torn last line" in caplog.text


def test_a_store_that_is_nothing_but_a_torn_line_starts_again(store):
    store.append([row(1)])
    shard(store).write_bytes(shard(store).read_bytes()[:-5])
    again = RowStore(store.folder)
    assert again.read() == []
    again.append([row(1)])
    assert again.read() == [row(1)]


@pytest.mark.parametrize(
    "garbage",
    [b"garbage", b"[1, 2]", b'{"no": "key"}', b"\xff\xfe", b"[" * 9999, b'{"id": "3", "id": "4"}'],
)
def test_garbage_in_the_middle_stops_with_file_and_line(store, garbage):
    store.append([row(1), row(2)])
    first, second = shard(store).read_bytes().splitlines(keepends=True)
    shard(store).write_bytes(first + garbage + b"\n" + second)
    with pytest.raises(InputError, match=r"part-00000\.jsonl:2: .*--skip-bad-rows") as caught:
        store.read()
    assert caught.value.exit_code == 3
    lenient = RowStore(store.folder, skip_bad_rows=True)
    assert lenient.read() == [row(1), row(2)]
    assert lenient.bad_rows == 1


def test_a_last_line_with_a_key_twice_was_edited_and_is_not_torn(store):
    """A torn line is cut off and redone; this one is somebody's, and stays until it is said."""
    store.append([row(1)])
    with shard(store).open("ab") as file:
        file.write(b'{"id": "3", "id": "4"}\n')
    with pytest.raises(
        InputError, match=r"part-00000\.jsonl:2: not a JSON object with each key once"
    ):
        RowStore(store.folder).read()


def test_of_duplicates_the_first_stands_and_the_rest_are_counted(store, caplog):
    store.append([row(1), row(2)])
    store.append([{"id": "r1", "response": "another"}, row(2)])
    assert store.read() == [row(1), row(2)]
    assert store.duplicates == 2
    assert "2 duplicate" in caplog.text


def test_byte_order_mark_crlf_and_blank_lines_are_no_rows_and_no_errors(store):
    store.append([row(1), row(2)])
    lines = shard(store).read_bytes().splitlines()
    shard(store).write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n  \n".join(lines) + b"\r\n\n")
    assert store.read() == [row(1), row(2)]


@pytest.mark.parametrize(
    "text",
    [
        "\ud800 lone",
        "a\x00b",
        "line\u2028sep\u2029\x85",
        "\u202eRTL\u200b",
        "🦜𝕏",
        "</script>\x1b[31m",
        "\r\n",
    ],
    ids=["surrogate", "nul", "separators", "rtl", "emoji", "escapes", "newlines"],
)
def test_strange_text_is_kept_exactly(store, text):
    store.append([row(1, prompt=text), row(2)])
    assert store.read() == [row(1, prompt=text), row(2)]
    shard(store).read_bytes().decode("ascii")


def test_array_scalars_become_numbers_and_nan_null(store):
    store.append([row(1, p=np.float32(0.5), n=np.int64(3), ids=np.arange(2), bad=float("nan"))])
    line = json.loads(shard(store).read_text())
    assert (line["p"], line["n"], line["ids"], line["bad"]) == (0.5, 3, [0, 1], None)


WRITER = """
import sys
from thinksafe_jax.runs import RowStore
store = RowStore(sys.argv[1])
done = store.keys()
for i in range(6):
    if f"r{i}" not in done:
        store.append([{"id": f"r{i}", "response": "x" * 50}])
"""


def write_in_process(folder, fault: str | None = None) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k != "THINKSAFE_FAULT"}
    env |= {"THINKSAFE_FAULT": fault} if fault else {}
    command = [sys.executable, "-c", WRITER, str(folder)]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("fault", "kept"), [("after_write:3", 3), ("torn_write:3", 2)])
def test_killed_while_writing_the_run_resumes_without_loss_or_repetition(tmp_path, fault, kept):
    assert write_in_process(tmp_path, fault).returncode == -signal.SIGKILL
    assert len(RowStore(tmp_path).read()) == kept
    resumed = write_in_process(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert ("torn last line" in resumed.stderr) == (fault == "torn_write:3")
    text = (tmp_path / "part-00000.jsonl").read_text()
    assert [json.loads(line)["id"] for line in text.splitlines()] == [f"r{i}" for i in range(6)]


def test_a_misspelt_fault_is_refused(tmp_path):
    assert "expected after_write:N" in write_in_process(tmp_path, "after_wrte:3").stderr


def test_a_full_disk_keeps_complete_rows_and_names_path_and_free_bytes(store, monkeypatch):
    """A file size limit refuses the write part-way, as a full disk does."""
    store.append([row(1)])
    size = shard(store).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(EnvironmentFault, match=r"part-00000.*bytes free") as caught:
            store.append([row(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.exit_code == 4
    assert shard(store).stat().st_size == size
    store.append([row(2)])
    assert store.read() == [row(1), row(2)]
