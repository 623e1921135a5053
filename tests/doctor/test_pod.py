"""`thinksafe doctor --pod` on real processes over loopback: one table, and who differs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.object_store import s3_bucket
from tests.support import REPOSITORY, finish_processes, free_port, xla_flags
from thinksafe_jax.doctor import examine_pod, print_report
from thinksafe_jax.errors import (
    ConfigError,
    EnvironmentFault,
    InputError,
    MissingRequirement,
    RetryLater,
)
from thinksafe_jax.hosts import Group

pytestmark = pytest.mark.hub

MINI = str(REPOSITORY / "configs/recipes/mini.yaml")


def doctor(*arguments: str, others: list[dict[str, str]]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, stdout and stderr of `doctor --pod`, a process for each environment in `others`.

    In an environment, `run_dir` stands in for the last argument.
    """
    address, processes = f"127.0.0.1:{free_port()}", []
    for index, own in enumerate(others):
        own = {**os.environ, "XLA_FLAGS": xla_flags(devices=2), **own}
        words = [*arguments[:-1], own.pop("run_dir", arguments[-1])]
        several = ["--coordinator", address, "--processes", str(len(others)), "--process"]
        command = [sys.executable, "-m", "thinksafe_jax", *several, str(index), "doctor"]
        processes.append(
            subprocess.Popen(
                [*command, "--pod", *words], env=own, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    codes, texts, errors = zip(*finish_processes(processes, patience=120), strict=True)
    return list(codes), list(texts), list(errors)


def test_hosts_that_agree_write_to_one_bucket_and_add_up():
    with s3_bucket() as bucket:
        codes, texts, errors = doctor("--config", MINI, f"{bucket}/run", others=[{}, {}])
        import fsspec

        assert fsspec.core.url_to_fs(bucket)[0].find(bucket) == []  # nothing is left there
    assert codes == [0, 0], errors
    lines = texts[0].splitlines()
    assert " ".join(lines[0].split()) == "process host devices jax clock disk free run dir recipe"
    for index, line in enumerate(lines[1:3]):
        assert line.startswith(f"{index} ") and "2 x cpu" in line and "ok" in line
    assert "all-reduce of 4 MiB over 4 devices" in texts[0] and "GB/s" in texts[0]
    assert "2 hosts agree, and nothing is missing" in texts[0]
    assert texts[1] == ""


def test_the_host_that_differs_is_named(tmp_path):
    """It has fewer devices, other flags, not the other's run directory, and no gated model."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Path(MINI).read_text().replace("mini:student", "owner/gated"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    odd = {
        "XLA_FLAGS": xla_flags(devices=1),
        "LIBTPU_INIT_ARGS": "--xla_b=1 --xla_a=2",
        "run_dir": str(tmp_path / "other/run"),
    }
    offline = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    codes, texts, errors = doctor(
        "--config",
        str(recipe),
        "seed=7",
        str(tmp_path / "own/run"),
        others=[offline, odd | offline],
    )
    assert codes == [4, 4], errors
    host = socket.gethostname()
    text = " ".join(texts[0].split())
    assert f"process 1 ({host}): 1 x cpu, 2 x cpu on the others" in text
    assert f"process 1 ({host}): LIBTPU_INIT_ARGS --xla_a=2 --xla_b=1, absent on the others" in text
    assert f"process 1 ({host}): {tmp_path}/other/run is not shared: files of process 0" in text
    # what all hosts lack is said of each
    for index in (0, 1):
        assert f"process {index} ({host}): student.model: owner/gated: not in the local" in text
    assert not list(tmp_path.glob("o*/.thinksafe-doctor*"))


@pytest.mark.parametrize("place, sound", [("new/deeper/run", True), ("file/run", False)])
def test_alone_it_examines_one_host(tmp_path, place, sound, capsys):
    (tmp_path / "file").write_text("")
    report = examine_pod(Group(), str(tmp_path / place))
    print_report(report)
    assert "8 x cpu" in capsys.readouterr().out
    assert report.bandwidth is not None and report.bandwidth.right
    assert report.exit_code == (0 if sound else 4)
    assert [f"{tmp_path}/file/run" in problem for problem in report.problems] == [True] * (
        not sound
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "errors, code",
    [
        ([], 0),
        ([InputError("no column")], 3),
        ([MissingRequirement("a licence")], 4),
        ([RetryLater("a guard is away")], 75),
        ([RetryLater("a guard is away"), InputError("no column"), EnvironmentFault("disk")], 3),
        ([ConfigError("a mesh"), InputError("no column")], 2),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value),
)
def test_what_a_recipe_lacks_has_the_exit_code_of_the_run(errors, code):
    """Scripts that start again on a rented pod go by it."""
    report = examine_pod(Group(), None, lambda: errors)
    assert report.exit_code == code
    assert len(report.problems) == len(errors)
