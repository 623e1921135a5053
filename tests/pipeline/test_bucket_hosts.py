"""Hosts that share nothing but a bucket: each has a disk of its own, and the run is one."""

import json
import signal

import pytest

from tests.object_store import s3_bucket
from tests.support import REPOSITORY, run_processes, try_processes
from thinksafe_jax.errors import RetryLater
from thinksafe_jax.runs import RowStore
from thinksafe_jax.storage import list_objects, open_store

pytestmark = [pytest.mark.hosts, pytest.mark.hub]

# runs some stages, and shows which files this host has then
SCRIPT = """
import json, os
from thinksafe_jax.config import load_recipe
from thinksafe_jax.pipeline import run_pipeline
from thinksafe_jax.storage import run_folder
recipe, mesh, url, caches, *stages = ARGUMENTS
os.environ["THINKSAFE_CACHE"] = caches + "/" + str(hosts.current().index)
settings = load_recipe(recipe, [
    "mesh=" + mesh, "synthesis.prompts[0].limit=10", "synthesis.prompts[1].limit=10",
    "training.epochs=1", "training.checkpoint_every=1", "engine.slots=4",
])
folder = run_folder(url)
run_pipeline(settings, folder, stages=stages)
files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
print(json.dumps({"folder": str(folder), "files": files}))
"""

# writes one row in each process; with a last argument the second is killed before the bucket has it
ROWS = """
import os
from thinksafe_jax.config import load_recipe
from thinksafe_jax.runs import Run
from thinksafe_jax.storage import run_folder
from thinksafe_jax.runs import wait_for_rows
recipe, url, caches, *killed = ARGUMENTS
me = str(hosts.current().index)
os.environ["THINKSAFE_CACHE"] = caches + "/" + me
if killed and me == "1":
    os.environ["THINKSAFE_FAULT"] = "after_write:1"
with Run.open(load_recipe(recipe), url) as run:
    store = run.store("samples")
    if me not in store.keys():
        store.append([{"id": me}])
    wait_for_rows(run.group, store, run.check_stop)
    print(sorted(store.keys()), len(store.shards()))
"""


def mesh_of_two(folder):
    """One device of each of two hosts: cut over both in training, one replica each to sample."""
    text = (REPOSITORY / "configs/mesh/cpu-8.yaml").read_text()
    for old, new in [("chips: 8", "chips: 2"), ("hosts: 1", "hosts: 2"),
                     ("data: 2, fsdp: 2, tensor: 2", "data: 1, fsdp: 2, tensor: 1"),
                     ("replica: 2, tensor: 4", "replica: 2, tensor: 1")]:  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (folder / "two.yaml").write_text(text)
    return folder / "two.yaml"


def test_two_hosts_meet_in_a_bucket_and_two_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    recipe, mesh = REPOSITORY / "configs/recipes/mini.yaml", mesh_of_two(tmp_path)
    with s3_bucket() as bucket:
        url = f"{bucket}/run"

        def start(caches: str, *stages: str) -> list[dict]:
            arguments = [recipe, mesh, url, tmp_path / caches, *stages]
            texts = run_processes(SCRIPT, 2, *arguments, devices=1)
            return [json.loads(text.splitlines()[-1]) for text in texts]

        first, second = start("one", "sample", "filter", "train")
        start("two", "export")  # restores what the others trained
        there = set(list_objects(*open_store(url)))
    assert {"samples/part-0of2-00000.jsonl", "samples/part-1of2-00000.jsonl"} <= there
    assert {"dataset/train.jsonl", "adapter/adapter_model.safetensors", "manifest.json"} <= there
    assert any(n.startswith("checkpoints/") and n.endswith("manifest.json") for n in there)
    assert not any(name.startswith("lock") for name in there)
    assert first["folder"] != second["folder"]
    shared = [set(host["files"]) - {"lock"} for host in (first, second)]
    assert {n for n in shared[0] if not n.startswith(".")} <= shared[1]
    sampled, also = (
        RowStore(f"{host['folder']}/samples", ("id", "attempt")).keys() for host in (first, second)
    )
    assert sampled == also
    assert len({id for id, _ in sampled}) == 20


def test_rows_that_a_killed_host_had_not_sent_yet_are_sent_at_its_next_start(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKSAFE_LAG_LIMIT", "5")
    recipe = REPOSITORY / "configs/recipes/mini.yaml"
    with s3_bucket() as bucket:
        arguments = [recipe, f"{bucket}/run", tmp_path]
        first, second = try_processes(ROWS, 2, *arguments, "killed", devices=1)
        assert (first[0], second[0]) == (RetryLater.exit_code, -signal.SIGKILL)
        texts = run_processes(ROWS, 2, *arguments, devices=1)
    assert texts == ["['0', '1'] 2\n"] * 2
