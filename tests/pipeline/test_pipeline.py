"""The whole flow through the command line: its files, its resuming, its way of being stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.object_store import s3_bucket
from tests.support import REPOSITORY, xla_flags
from thinksafe_jax.storage import open_store

pytestmark = pytest.mark.slow

# a mini run cut down to seconds; the files and the code paths are those of the full one
SMALL = [
    "synthesis.prompts[0].limit=24",
    "synthesis.prompts[1].limit=16",
    "training.epochs=2",
    "training.checkpoint_every=3",
    "evaluation.suites=[]",
    "evaluation.harmful[0].limit=12",
    "evaluation.over_refusal[0].limit=8",
    "evaluation.reasoning[0].limit=8",
    "engine.slots=8",
]
STAGES = ["sample", "filter", "train", "export", "evaluate", "report"]


@pytest.fixture(scope="module")
def environment():
    """One device, and a few optimisations: many processes run the same programs."""
    few = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    return {**os.environ, **few, "XLA_FLAGS": xla_flags(devices=1)}


def command(run_dir, *more):
    recipe = str(REPOSITORY / "configs/recipes/mini.yaml")
    script = [sys.executable, "-m", "thinksafe_jax", "run", "--config", recipe]
    return [*script, "--run-dir", str(run_dir), *more, *SMALL]


def run(run_dir, environment, *more, check=True):
    done = subprocess.run(command(run_dir, *more), env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, environment)
    return folder


def rows(folder: Path) -> list[str]:
    """Every row below a folder, sorted: the order of finishing is not part of the result."""
    files = folder.rglob("*.jsonl")
    return sorted(line for file in files for line in file.read_text().split("\n") if line)


def result(run_dir: Path) -> dict:
    """All that must be equal however often a run was interrupted."""
    adapter = run_dir / "adapter"
    return {
        "samples": rows(run_dir / "samples"),
        "verdicts": rows(run_dir / "verdicts"),
        "dataset": (run_dir / "dataset/train.jsonl").read_text(),
        "adapter": {f.name: f.read_bytes() for f in adapter.iterdir() if f.suffix != ".md"},
        "evaluation": rows(run_dir / "evaluation"),
    }


def written(run_dir: Path) -> set[tuple[Path, int]] | None:
    """What a run has made so far, beside what every start rewrites; None in the midst of it."""
    made = (path for path in run_dir.rglob("*") if path.parent != run_dir)
    try:
        return {(path, path.stat().st_size) for path in made if "partial" not in str(path)}
    except FileNotFoundError:
        return None


def test_the_run_directory_is_what_other_tools_expect(finished):
    sample = json.loads(rows(finished / "samples")[-1])
    assert {
        "id",
        "prompt",
        "label",
        "steering",
        "response",
        "finish_reason",
        "tokens",
        "attempt",
    } <= set(sample)
    verdict = json.loads(rows(finished / "verdicts")[-1])
    assert {"id", "verdict", "p_unsafe", "scope", "truncated"} <= set(verdict)
    trained = [json.loads(x) for x in (finished / "dataset/train.jsonl").read_text().splitlines()]
    assert all(
        {"instruction", "response", "prompt_label", "response_label"} <= set(row) for row in trained
    )
    assert not any("You should refuse" in row["instruction"] for row in trained)
    for name in [
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "lock",
        "checkpoints",
        "dataset/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "evaluation/before.json",
        "evaluation/after.json",
        "report/report.html",
        "report/summary.json",
    ]:
        assert (finished / name).exists(), name


def test_summary_has_rates_with_intervals_and_counts(finished):
    summary = json.loads((finished / "report/summary.json").read_text())
    for step in ("before", "after"):
        for rate in ("harmful_response_rate", "over_refusal_rate", "reasoning_accuracy"):
            value = summary[step][rate]
            assert value["low"] <= value["value"] <= value["high"] and value["n"] > 0
    harmful = summary["dataset"]["harmful"]
    assert harmful["sampled"] == 24
    assert harmful["accepted"] + sum(harmful["dropped"].values()) == 24


def test_a_second_start_recomputes_nothing(finished, environment):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    again = run(finished, environment)
    for stage in STAGES:
        assert f"{stage}: already done" in again.stderr
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed <= {"lock", "manifest.json"}


def test_a_stage_asks_for_the_one_before_it(tmp_path, environment):
    script = [sys.executable, "-m", "thinksafe_jax", "train", str(tmp_path / "new")]
    recipe = str(REPOSITORY / "configs/recipes/mini.yaml")
    done = subprocess.run(
        [*script, "--config", recipe], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "thinksafe sample" in done.stderr


def test_killed_at_ten_random_moments_it_ends_the_same(finished, environment, tmp_path):
    """SIGKILL soon after each start has written something; then to the end.

    The same rows come out, and the same adapter.
    """
    folder, chance, killed = tmp_path / "killed", random.Random(0), 0
    for _ in range(10):
        before = written(folder)
        process = subprocess.Popen(
            command(folder), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and written(folder) == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 7, "the others had ended before"
    run(folder, environment)
    assert result(folder) == result(finished)


def test_sigterm_saves_and_says_so(finished, environment, tmp_path):
    """Fault 6, at loading, sampling, training, evaluating: exit code 143 within seconds.

    The next start goes on where it was.
    """
    folder = tmp_path / "stopped"
    # what appears when the phase begins; config.yaml is there before anything is loaded
    for sign in ("config.yaml", "samples", "checkpoints", "evaluation/before"):
        assert not (folder / sign).exists()
        process = subprocess.Popen(
            command(folder), env=environment, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 600
        while not (folder / sign).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 143, (sign, errors)
        assert "run the same command again to resume" in errors
    run(folder, environment)
    assert result(folder) == result(finished)


def test_parts_of_several_hosts_end_as_one_run(finished, environment, tmp_path):
    """Two at once, killed; gone on with as one of three; then the whole completes the rest."""
    folder = tmp_path / "parts"

    def part(name):
        recipe = str(REPOSITORY / "configs/recipes/mini.yaml")
        script = [sys.executable, "-m", "thinksafe_jax", "sample", str(folder), "--config"]
        return subprocess.Popen(
            [*script, recipe, "--part", name, *SMALL], env=environment, stderr=subprocess.PIPE
        )

    hosts = [part("0/2"), part("1/2")]
    deadline = time.monotonic() + 600
    while len(list(folder.glob("samples/part-*of2-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    for host in hosts:
        host.kill()
        host.communicate()
    third = part("1/3")
    _, errors = third.communicate()
    assert third.returncode == 0, errors.decode()
    assert len({p.name.split("-")[1] for p in folder.glob("samples/part-*")}) >= 2
    run(folder, environment)
    assert result(folder) == result(finished)


def test_a_run_in_a_bucket_moves_from_machine_to_machine(finished, environment, tmp_path):
    """Killed while sampling, on another machine killed while training, ended on a third."""
    with s3_bucket() as bucket:
        url = f"{bucket}/runs/moved"
        filesystem, root = open_store(url)

        def machine(name: str) -> dict[str, str]:
            aws = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
            return environment | aws | {"THINKSAFE_CACHE": str(tmp_path / name)}

        done = run(url, machine("one") | {"THINKSAFE_FAULT": "after_write:2"}, check=False)
        assert done.returncode == -signal.SIGKILL
        assert filesystem.exists(f"{root}/samples/part-00000.jsonl")
        second = subprocess.Popen(command(url), env=machine("two"), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            filesystem.invalidate_cache()
            if filesystem.glob(f"{root}/checkpoints/*/manifest.json"):
                break
            time.sleep(0.1)
        second.kill()
        second.wait()
        third = run(url, machine("three"))
        assert "sample: already done" in third.stderr
        assert "resuming at step" in third.stderr
        (folder,) = (tmp_path / "three/runs").iterdir()
        assert result(folder) == result(finished)
        assert not filesystem.exists(f"{root}/lock")
