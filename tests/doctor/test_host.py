"""`thinksafe doctor` says what is here, what is missing, and how to get it."""

import json
import os
import sys
from importlib import metadata

import pytest

from tests.runs.test_directory import RECIPE
from thinksafe_jax import cli
from thinksafe_jax.doctor import host as doctor
from thinksafe_jax.runs import Run


def by_name(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {f.what: f for f in findings}


def run_doctor(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["thinksafe", "doctor", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_versions_devices_and_storage_are_shown(monkeypatch, capsys):
    assert run_doctor(monkeypatch) == 0
    text = capsys.readouterr().out
    assert metadata.version("jax") in text
    assert "8 x cpu (backend cpu)" in text
    assert "current directory" in text
    assert "nothing that thinksafe needs is missing" in text


def test_a_missing_dependency_exits_4_with_the_command_that_adds_it(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "NEEDED", ("jax", "no-such-distribution"))
    assert run_doctor(monkeypatch) == 4
    text = capsys.readouterr().out
    assert "pip install no-such-distribution" in text
    assert "missing: no-such-distribution" in text


def test_an_absent_extra_is_only_noted(monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", {"wandb": "no_such_module", "test": "pytest"})
    found = by_name(doctor.examine())
    assert found["extra [wandb]"].state == "note"
    assert "pip install 'thinksafe-jax[wandb]'" in found["extra [wandb]"].value
    assert found["extra [test]"].state == "ok"


def test_no_device_is_a_finding_and_no_traceback(monkeypatch):
    import jax

    def broken():
        raise RuntimeError("Unable to initialize backend 'tpu'\nmore text")

    monkeypatch.setattr(jax, "devices", broken)
    found = by_name(doctor.examine())["devices"]
    assert (found.state, found.value) == (
        "missing",
        "JAX finds none: Unable to initialize backend 'tpu'",
    )


def test_a_libtpu_lock_file_is_named_with_its_holder(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "LIBTPU_LOCK", tmp_path / "libtpu_lockfile")
    assert "libtpu lock" not in by_name(doctor.examine())
    (tmp_path / "libtpu_lockfile").write_text("")
    left = by_name(doctor.examine())["libtpu lock"].value
    assert f"{tmp_path}/libtpu_lockfile exists" in left and "delete it" in left
    with (tmp_path / "libtpu_lockfile").open():
        held = by_name(doctor.examine())["libtpu lock"].value
    assert f"held by pid {os.getpid()} (" in held and "delete" not in held


def test_a_run_directory_in_use_or_left_by_a_kill_is_described(tmp_path):
    with Run.open(RECIPE, tmp_path / "run"):
        assert "in use by pid" in by_name(doctor.examine(tmp_path / "run"))["lock"].value
    assert "lock" not in by_name(doctor.examine(tmp_path / "run"))
    stale = {"pid": 7, "host": "h", "time": "t"}
    (tmp_path / "run" / "lock").write_text(json.dumps(stale))
    assert "stale, left by pid 7 on h" in by_name(doctor.examine(tmp_path / "run"))["lock"].value


def test_leftovers_of_kills_are_listed(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    (tmp_path / ".manifest.json.1.partial").write_text("")
    text = by_name(doctor.examine(tmp_path))["partial files"].value
    for name in ("checkpoints/5", "6.orbax-checkpoint-tmp", ".manifest.json.1.partial"):
        assert name in text


def test_a_run_directory_that_cannot_be_made_is_missing_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    found = by_name(doctor.examine(tmp_path / "file" / "run"))["run directory"]
    assert found.state == "missing"
    found = by_name(doctor.examine(tmp_path / "new" / "run"))["run directory"]
    assert "can be made" in found.value
    assert not (tmp_path / "new").exists()
