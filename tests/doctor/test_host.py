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
from thinksafe_jax.sharding import flags_of_device
from thinksafe_jax.weights import write_manifest


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


def test_the_hubs_cache_is_the_one_that_is_used(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/a/large/disk")  # of the variable of that name
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as of HF_HUB_OFFLINE=yes
    text = by_name(doctor.examine())["Hugging Face cache"].value
    assert text.startswith("/a/large/disk, ") and text.endswith(" GiB free (offline)")


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


@pytest.mark.parametrize(
    "given, state, said",
    [
        (0, "note", "3 of the chip's 3 are not set; for the preset of configs/chips: export LIB"),
        (2, "note", "1 of the chip's 3 are not set"),
        (3, "ok", "the preset of configs/chips for TPU v5e"),
        (4, "ok", "the preset of configs/chips for TPU v5e, and 1 more"),
    ],
)
def test_whether_the_compiler_runs_with_the_chips_preset(monkeypatch, given, state, said):
    flags = [*flags_of_device("TPU v5e"), "--xla_tpu_scoped_vmem_limit_kib=65536"]
    monkeypatch.setenv("LIBTPU_INIT_ARGS", " ".join(flags[:given]))
    (found,) = doctor._compiler_flags(["TPU v5e"])
    assert (found.what, found.state) == ("XLA flags", state)
    assert found.value.startswith(said)


def test_the_command_for_the_preset_keeps_the_flags_that_are_given(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_a=1")
    (found,) = doctor._compiler_flags(["TPU v5e"])
    whole = " ".join([*flags_of_device("TPU v5e"), "--xla_a=1"])
    assert found.value.endswith(f"export LIBTPU_INIT_ARGS='{whole}'")


def test_a_device_without_a_preset_has_only_the_flags_that_are_given(monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    assert not list(doctor._compiler_flags(["cpu"]))
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_a=1")
    (found,) = doctor._compiler_flags(["cpu"])
    assert (found.state, found.value) == ("ok", "--xla_a=1 (LIBTPU_INIT_ARGS)")


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


def test_every_file_that_a_kill_left_is_listed_once(tmp_path):
    left = [
        ".manifest.json.1.partial",
        ".adapter.partial",
        "checkpoints/.partial-step_00000004",
        "checkpoints/step_00000003/state.orbax-checkpoint-tmp",
        "dataset/data/.train.parquet.7.partial",
        ".thinksafe-doctor-1",
    ]
    for name in left:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "inside.partial").write_text("")
    (tmp_path / "partial.jsonl").write_text("")  # a name that only looks like one
    text = by_name(doctor.examine(tmp_path))["partial files"].value
    assert text.startswith(f"{len(left)} in {tmp_path}, left by kills")
    for name in left:
        assert name in text
    assert "inside" not in text and "partial.jsonl" not in text


def test_a_checkpoint_that_is_not_whole_is_listed(tmp_path):
    for step in (1, 2, 3, 4):
        folder = tmp_path / f"checkpoints/step_{step:08d}"
        (folder / "state").mkdir(parents=True)
        (folder / "state/array").write_bytes(b"1234")
        if step > 1:
            write_manifest(folder, {})
    (tmp_path / "checkpoints/step_00000002/state/array").unlink()
    (tmp_path / "checkpoints/step_00000003/state/array").write_bytes(b"12")
    (tmp_path / "checkpoints/5").mkdir()
    text = by_name(doctor.examine(tmp_path))["unfinished checkpoints"].value
    assert text.startswith(f"4 in {tmp_path}")
    assert [f"step_{n:08d}" in text for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert "checkpoints/5" in text


def test_downloads_that_were_cut_short_are_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path))
    assert "partial downloads" not in by_name(doctor.examine())
    (tmp_path / "models/.student.4711.partial").mkdir(parents=True)
    assert "models/.student.4711.partial" in by_name(doctor.examine())["partial downloads"].value


def test_a_run_directory_that_cannot_be_made_is_missing_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    found = by_name(doctor.examine(tmp_path / "file" / "run"))["run directory"]
    assert found.state == "missing"
    found = by_name(doctor.examine(tmp_path / "new" / "run"))["run directory"]
    assert "can be made" in found.value
    assert not (tmp_path / "new").exists()
