"""The rehearsal of a pod: every launcher is understood, and what a run loses is found."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from scripts.launch import launcher_variables as variables
from scripts.launch import pod_rehearsal as rehearsal
from thinksafe_jax.hosts.cluster import find_cluster

ADDRESS = "127.0.0.9"


@pytest.mark.parametrize(
    ("launcher", "count", "slices", "said"),
    [
        (variables.gke, 4, 2, "the TPU's environment"),
        (variables.cloud_tpu, 4, 2, "the TPU's environment"),
        (variables.slurm, 2, 1, "Slurm"),
    ],
)
def test_every_host_finds_its_place_as_its_launcher_tells_it(
    launcher, count, slices, said, monkeypatch
):
    facts = [variables.tpu_facts(ADDRESS, number) for number in range(4)]
    servers = [variables.metadata_server(fact) for fact in facts]
    addresses = [server.__enter__() for server in servers]
    places = []
    for host in launcher(ADDRESS, addresses):
        with monkeypatch.context() as environment:
            for name in [n for n in os.environ if n.startswith(("SLURM_", "TPU_", "MEGASCALE_"))]:
                environment.delenv(name)
            for name, value in host.items():
                environment.setenv(name, value)
            places.append(find_cluster())
    for server in servers:
        server.__exit__(None, None, None)
    assert [(p.index, p.count, p.slices) for p in places] == [
        (index, count, slices) for index in range(count)
    ]
    assert {(p.host, p.found_by) for p in places} == {(ADDRESS, said)}


def folder_of(place: Path, rows: int, steps: list[int], saved: int, weight: float = 1.0) -> Path:
    """What is in a bucket, with so many rows and these steps."""
    for name in ("samples", "dataset", "adapter", f"checkpoints/step_{saved:08d}"):
        (place / name).mkdir(parents=True)
    lines = [json.dumps({"id": str(n), "attempt": 1, "response": f"r{n}"}) for n in range(rows)]
    (place / "samples/part-00000.jsonl").write_text("\n".join([*lines, '{"id": "to']))
    (place / "dataset/train.jsonl").write_text("\n".join(lines))
    entries = [{"stage": "train", "step": step, "loss": 1.0} for step in steps]
    (place / "metrics.jsonl").write_text("\n".join(map(json.dumps, entries)))
    (place / f"checkpoints/step_{saved:08d}/manifest.json").write_text("{}")
    weights = {"a": np.full((2, 2), weight, np.float32)}
    save_file(weights, place / "adapter/adapter_model.safetensors")
    return place


@pytest.fixture
def ends(tmp_path):
    """A rehearsal as it should go: five rows and two after the first stop, three steps saved."""

    def ended(name: str, stop: signal.Signals | None, codes: list[int], folder: Path, said=""):
        return rehearsal.Ended(rehearsal.Start(name, [], stop), codes, 1.0, said, folder)

    steps = list(range(1, 7))
    return [
        ended("alone", None, [0], folder_of(tmp_path / "a", 5, steps, 6)),
        ended("GKE", signal.SIGTERM, [75, 143], folder_of(tmp_path / "b", 2, [], 0)),
        ended("TPU", signal.SIGKILL, [75, -9], folder_of(tmp_path / "c", 5, [1, 2, 3], 3)),
        ended("Slurm", None, [0, 0], folder_of(tmp_path / "d", 5, steps, 6), "resuming at step 3"),
    ]


def test_nothing_lost(ends):
    lines = rehearsal.checks(*ends)
    assert [line.lost for line in lines] == [0] * len(lines)
    text = rehearsal.report(ends, lines, 60.0)
    assert text.endswith("lost: nothing (60 s)")
    assert "SIGKILL  75 -9" in text and "5 kept" in text


def lose_a_row(ends):
    file = ends[3].folder / "samples/part-00000.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    return {"rows in the bucket after SIGTERM", "rows in the bucket after SIGKILL",
            "rows as one start draws them"}  # fmt: skip


def repeat_a_step(ends):
    file = ends[3].folder / "metrics.jsonl"
    file.write_text(file.read_text() + "\n" + file.read_text().splitlines()[3])
    return {"steps of training, each once"}


def start_again_at_the_first_step(ends):
    ends[3] = rehearsal.Ended(ends[3].start, [0, 0], 1.0, "", ends[3].folder)
    return {"step saved before SIGKILL"}


def train_something_else(ends):
    weights = {"a": np.full((2, 2), 1.1, np.float32)}
    save_file(weights, ends[3].folder / "adapter/adapter_model.safetensors")
    return {"the adapter as one start trains it"}


def end_otherwise(ends):
    ends[2] = rehearsal.Ended(ends[2].start, [1, -9], 1.0, "", ends[2].folder)
    return {"exit codes: 143, -9, and 75 beside them"}


@pytest.mark.parametrize(
    "harm",
    [lose_a_row, repeat_a_step, start_again_at_the_first_step, train_something_else, end_otherwise],
)
def test_what_is_lost_is_found(ends, harm):
    expected = harm(ends)
    lines = rehearsal.checks(*ends)
    assert {line.what for line in lines if line.lost} == expected
    assert "LOST: " in rehearsal.report(ends, lines, 60.0)
