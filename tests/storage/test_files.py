"""Whole files or none, and refusals before any work (faults 5, 17)."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.storage import (
    atomic_write,
    existing_place,
    free_bytes,
    prepare_directory,
    set_aside,
    writable_place,
)


def test_a_file_is_replaced_whole(tmp_path):
    atomic_write(tmp_path / "a.json", "old")
    atomic_write(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_lone_surrogates_do_not_stop_a_text_file(tmp_path):
    atomic_write(tmp_path / "a.md", "x\ud800é")
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "x?é"


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path, monkeypatch):
    atomic_write(tmp_path / "a.json", "old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match=r"a\.json.*no space left.*bytes free"):
        atomic_write(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_missing_parents_are_made(tmp_path):
    assert prepare_directory(tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(EnvironmentFault, match="a file is in the way"):
            prepare_directory(wrong)


def test_a_directory_that_cannot_be_written_is_refused():
    """In another process, since root may write anywhere: it first becomes nobody."""
    code = (
        "import os, sys; from thinksafe_jax.storage import prepare_directory\n"
        "from thinksafe_jax.errors import EnvironmentFault\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for wrong in sys.argv[1:]:\n"
        "    try: prepare_directory(wrong)\n"
        "    except EnvironmentFault as fault: print(fault)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        command = [sys.executable, "-c", code, folder, f"{folder}/new"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        Path(folder).chmod(0o755)
    first, second = done.stdout.splitlines()
    assert (
        first == f"{folder}: cannot write, permission denied; choose a directory that you can write"
    )
    assert second.startswith(f"{folder}/new: cannot write, permission denied")


def test_what_is_set_aside_replaces_nothing(tmp_path):
    for content in ("first", "second", "third"):
        (tmp_path / "rows.jsonl").write_text(content)
        set_aside(tmp_path / "rows.jsonl", tmp_path / "earlier" / "rows-ab.jsonl")
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / content).touch()
        set_aside(tmp_path / "runs", tmp_path / "earlier" / "runs-ab")
    kept = {p.name: p for p in (tmp_path / "earlier").iterdir()}
    files = ("rows-ab.jsonl", "rows-ab.2.jsonl", "rows-ab.3.jsonl")
    assert [kept[name].read_text() for name in files] == ["first", "second", "third"]
    folders = [
        kept[name] / text
        for name, text in zip(("runs-ab", "runs-ab.2"), ("first", "second"), strict=True)
    ]
    assert all(file.exists() for file in folders)
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("below", ["", "a/b", "x" * 300 + "/b"])
def test_what_is_not_there_would_be_made_in_the_nearest_folder_above(tmp_path, below):
    """A name that no file system takes is not there either."""
    assert existing_place(tmp_path / below) == tmp_path
    assert writable_place(tmp_path / below) == tmp_path
    assert free_bytes(tmp_path / below) > 0


def test_a_relative_path_has_a_place_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert existing_place(Path("a/b")) == tmp_path


def test_a_place_is_proved_writable_and_nothing_is_left(tmp_path):
    assert writable_place(tmp_path / "a" / "b") == tmp_path
    assert not list(tmp_path.iterdir())
