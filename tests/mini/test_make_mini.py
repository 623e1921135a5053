"""scripts/make_mini.py: MANIFEST.json is of files that its command makes."""

import sys

import pytest

from tests.support import REPOSITORY


@pytest.fixture
def make_mini(monkeypatch, tmp_path):
    """The script, with nothing made; the folders of all models are there."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import make_mini

    for name in make_mini.SPEAKERS:
        (tmp_path / name).mkdir()
    for name in ("make_speaker", "make_guard", "finish_speaker"):
        monkeypatch.setattr(make_mini, name, lambda *_: None)
    monkeypatch.setattr(make_mini, "measure", lambda *_: {})
    monkeypatch.setattr(
        make_mini, "write_manifest", lambda out, *_: (out / "MANIFEST.json").touch()
    )
    return make_mini


@pytest.mark.parametrize(
    ("options", "is_written"),
    [
        ([], True),
        (["--only", "student"], False),
        (["--only", "guard"], False),
        (["--rows", "9"], False),
    ],
)
def test_a_manifest_is_written_only_when_all_parts_were_made(
    make_mini, monkeypatch, tmp_path, options, is_written
):
    monkeypatch.setattr(sys, "argv", ["make_mini.py", "--out", str(tmp_path), *options])
    assert make_mini.main() == 0
    assert (tmp_path / "MANIFEST.json").exists() == is_written
