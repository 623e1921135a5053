"""Run directories in buckets: what survives a kill, a lost machine and a second writer."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax.numpy as jnp
import pytest

from tests.object_store import s3_bucket
from tests.runs.test_directory import RECIPE
from thinksafe_jax.cli.arguments import run_directory
from thinksafe_jax.config import SynthesisConfig
from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError
from thinksafe_jax.runs import Part, RowBuffer, Run, manifest, new_training
from thinksafe_jax.runs import directory as run_module
from thinksafe_jax.storage import (
    atomic_write,
    lease,
    list_objects,
    mirror,
    open_store,
    persist,
    run_folder,
)
from thinksafe_jax.training.checkpoints import CheckpointStore

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module", params=["memory", "file", "s3"])
def bucket(request, tmp_path_factory):
    if request.param == "s3":
        with s3_bucket() as url:
            yield url
    elif request.param == "file":
        yield f"file://{tmp_path_factory.mktemp('bucket')}"
    else:
        yield "memory://bucket"


@pytest.fixture
def url(bucket, tmp_path, monkeypatch) -> str:
    """A run directory that nothing was written to yet."""
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path / "cache"))
    return f"{bucket}/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """From the call on this is another machine: nothing of the local copy is there."""

    def move() -> None:
        shutil.rmtree(tmp_path / "cache")
        mirror._mirrors.clear()

    return move


def objects(url: str) -> set[str]:
    return set(list_objects(*open_store(url)))


def rows(*numbers: int) -> list[dict]:
    return [{"id": f"r{n}"} for n in numbers]


def test_rows_are_numbered_objects_that_are_there_when_append_returns(url, elsewhere):
    with Run.open(RECIPE, url) as run:
        store = run.store("samples")
        store.append(rows(1, 2))
        store.append(rows(3))
        assert {"samples/part-00000.jsonl", "samples/part-00001.jsonl"} <= objects(url)
    elsewhere()
    with Run.open(RECIPE, url) as run:
        assert run.store("samples").read() == rows(1, 2, 3)
        run.store("samples").append(rows(4))
        assert "samples/part-00002.jsonl" in objects(url)


def test_a_bucket_gets_few_large_objects(url):
    with Run.open(RECIPE, url) as run:
        with RowBuffer(run.store("samples")) as buffer:
            for row in rows(*range(2000)):
                buffer.add(row)
        assert [n for n in objects(url) if n.startswith("samples/")] == ["samples/part-00000.jsonl"]


def test_a_stage_is_done_only_when_the_bucket_has_all_it_made(url, elsewhere):
    with Run.open(RECIPE, url) as run:
        (run.path / "adapter").mkdir()
        (run.path / "adapter/adapter_model.safetensors").write_bytes(b"weights")
        run.log("export", loss=1.0)
        run.mark_done("export", "hash")
    left = objects(url)
    assert {"config.yaml", "manifest.json", "adapter/adapter_model.safetensors"} <= left
    assert not any(name.startswith(("lock", ".")) for name in left)
    elsewhere()
    with Run.open(RECIPE, url) as run:
        assert run.is_done("export", "hash")
        assert (run.path / "adapter/adapter_model.safetensors").read_bytes() == b"weights"
        assert json.loads((run.path / "metrics.jsonl").read_text())["loss"] == 1.0


def test_what_is_deleted_here_is_deleted_there_before_anything_is_written(url, elsewhere):
    """Else rows of another model could be taken for those of the one noted beside them."""
    with Run.open(RECIPE, url) as run:
        folder = run.path / "evaluation/after"
        run.store("evaluation/after/responses").append(rows(1))
        shutil.rmtree(folder)
        folder.mkdir()
        atomic_write(folder / "responses.sha256", "another model\n")
        assert {n for n in objects(url) if n.startswith("evaluation")} == {
            "evaluation/after/responses.sha256"
        }


def test_a_new_run_clears_the_bucket_too(url):
    with Run.open(RECIPE, url) as run:
        run.store("samples").append(rows(1))
        run.mark_done("sample", "hash")
    other = replace(RECIPE, synthesis=SynthesisConfig(method="safepath"))
    with pytest.raises(ConfigError) as caught, Run.open(other, url):
        pass
    assert str(caught.value).startswith(f"{url} was begun with another configuration")
    with Run.open(other, url, new_run=True):
        assert objects(url) == {"config.yaml", "manifest.json", "lock"}


@pytest.mark.parametrize("anew", ["new_run", "new_verdicts"])
def test_what_never_arrived_does_not_come_into_what_was_begun_anew(
    url, tmp_path, monkeypatch, anew
):
    with Run.open(RECIPE, url) as run:
        here, created = run.path, run.manifest.content["created"]
    unsent = here / "verdicts/part-00000.jsonl"  # killed before the bucket had it
    unsent.parent.mkdir()
    unsent.write_text('{"id": "old"}\n')
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setattr(manifest, "now", lambda: f"after {created}")
    with Run.open(RECIPE, url, **{anew: True}) as run:
        assert run.path != here
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path / "cache"))
    with Run.open(RECIPE, url) as run:
        assert run.path == here
        assert run.store("verdicts").read() == []
    unsent.parent.mkdir(exist_ok=True)
    unsent.write_text('{"id": "new"}\n')
    with Run.open(RECIPE, url) as run:
        assert run.store("verdicts").keys() == {"new"}, "what is of the run itself stays"


def test_a_checkpoint_arrives_whole_and_outlives_a_kill_in_the_next(url, elsewhere, monkeypatch):
    """Its manifest goes last, and an older one is given up only when the newer is complete."""
    state = {"w": jnp.arange(6.0)}
    folder = run_folder(url) / "checkpoints"
    store = CheckpointStore(folder, keep=1)
    store.save(1, state, {})
    send, sent = mirror.Mirror._send, []

    def dies(self, name):
        sent.append(name)
        if name.endswith("manifest.json"):
            raise OSError("killed here")
        return send(self, name)

    monkeypatch.setattr(mirror.Mirror, "_send", dies)
    with pytest.raises(EnvironmentFault, match="killed here"):
        store.save(2, state, {})
    assert len(sent) > 2 and sent[-1] == "checkpoints/step_00000002/manifest.json"
    monkeypatch.undo()
    monkeypatch.setenv("THINKSAFE_CACHE", str(folder.parents[2]))
    elsewhere()
    store = CheckpointStore(run_folder(url) / "checkpoints", keep=1)
    assert store.newest()["step"] == 1
    assert store.restore(1, state)["w"].tolist() == state["w"].tolist()
    store.save(3, state, {})
    assert {n.split("/")[1] for n in objects(url)} == {"step_00000003"}


def test_training_goes_on_while_a_checkpoint_is_sent(url, monkeypatch):
    began, may_end, send = threading.Event(), threading.Event(), mirror.Mirror._send

    def slow(self, name):
        if name == "checkpoints/state":
            began.set()
            may_end.wait(20)
        return send(self, name)

    monkeypatch.setattr(mirror.Mirror, "_send", slow)
    monkeypatch.setattr(run_module, "METRICS_SECONDS", 0.0)
    with Run.open(RECIPE, url) as run:
        (run.path / "checkpoints").mkdir()
        (run.path / "checkpoints/state").write_bytes(b"state")
        sending = threading.Thread(target=persist, args=(run.path / "checkpoints",))
        sending.start()
        began.wait()
        run.log("train", loss=1.0)
        assert sending.is_alive()
        may_end.set()
        sending.join()
    assert {"metrics.jsonl", "checkpoints/state"} <= objects(url)


def test_readers_see_what_another_machine_wrote_meanwhile(url, elsewhere):
    with Run.open(RECIPE, url) as run:
        run.store("samples").append(rows(1))
    filesystem, root = open_store(url)
    filesystem.pipe_file(f"{root}/report/report.html", b"<html>")
    folder = run_folder(url)
    assert (folder / "report/report.html").read_text() == "<html>"
    filesystem.rm_file(f"{root}/report/report.html")
    assert not (run_folder(url) / "report/report.html").exists()


def test_a_reader_goes_on_when_a_run_prunes_meanwhile(url, elsewhere, monkeypatch):
    with Run.open(RECIPE, url) as run:
        for number in range(2):
            run.store("samples").append(rows(number))
    elsewhere()

    def pruned_afterwards(filesystem, root):
        found = list_objects(filesystem, root)
        filesystem.rm_file(f"{root}/samples/part-00000.jsonl")
        return found

    monkeypatch.setattr(mirror, "list_objects", pruned_afterwards)
    samples = run_folder(url) / "samples"
    assert [path.name for path in samples.iterdir()] == ["part-00001.jsonl"]


def test_a_full_disk_is_said_to_be_one_and_what_was_fetched_is_not_fetched_again(
    url, elsewhere, monkeypatch
):
    with Run.open(RECIPE, url) as run:
        for number in range(4):
            run.store("samples").append(rows(number))
    elsewhere()
    filesystem, _ = open_store(url)
    get_file, fetched, others = (
        filesystem.get_file,
        [],
        threading.Barrier(6),
    )  # with config, manifest

    def fills_the_disk(source, target, **options):
        get_file(source, target, **options)
        others.wait()
        if source.endswith("part-00002.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(filesystem, "get_file", fills_the_disk)
    with pytest.raises(EnvironmentFault, match=r"part-00002\.jsonl: cannot write, no space left"):
        run_folder(url)
    monkeypatch.setattr(
        filesystem, "get_file", lambda *names: fetched.append(names[0]) or get_file(*names)
    )
    samples = run_folder(url) / "samples"
    assert [name.rpartition("/")[2] for name in fetched] == ["part-00002.jsonl"]
    assert sorted(path.name for path in samples.iterdir()) == [
        f"part-0000{n}.jsonl" for n in range(4)
    ]


def test_parts_of_several_hosts_meet_in_the_bucket(url, elsewhere):
    with Run.open(RECIPE, url, part=Part(0, 2)) as run:
        run.store("samples").append(rows(1))
    elsewhere()
    with Run.open(RECIPE, url, part=Part(1, 2)) as run:
        run.store("samples").append(rows(2))
    elsewhere()
    with Run.open(RECIPE, url) as run:
        assert run.store("samples").keys() == {"r1", "r2"}


# --- 14: two runs in one directory -------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Leases are renewed often, and still live a minute without: the machine may be busy."""
    monkeypatch.setattr(lease, "RENEW", 0.05)


class Impatient:
    """A clock on which every wait takes ten seconds, and none really."""

    passed = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += 10.0


def test_a_new_training_that_was_cut_short_is_completed_on_another_machine(
    url, elsewhere, monkeypatch
):
    """Of the earlier one nothing is lost, and nothing of it is taken for the new one's."""
    with Run.open(RECIPE, url) as run:
        for name in ("dataset/train.jsonl", "adapter/adapter_model.safetensors"):
            (run.path / name).parent.mkdir()
            (run.path / name).write_text(name)
        for stage in ("filter", "train"):
            run.mark_done(stage, "hash")
    other = replace(RECIPE, training=replace(RECIPE.training, epochs=1))
    with monkeypatch.context() as patched:
        patched.setattr(new_training, "set_aside", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), Run.open(other, url, new_training=True):
            pass
    elsewhere()
    with Run.open(other, url) as run:
        assert run.is_done("filter", "hash") and not run.is_done("train", "hash")
    assert objects(url) == {
        "config.yaml",
        "dataset/train.jsonl",
        "manifest.json",
        "trainings/training-1/adapter/adapter_model.safetensors",
        "trainings/training-1/config.yaml",
        "trainings/training-1/manifest.json",
    }
    elsewhere()
    training = run_directory(f"{url}/trainings/training-1")
    with Run.open(RECIPE, training) as run:
        assert run.is_done("filter", "hash") and run.is_done("train", "hash")
        assert "trainings/training-1/lock" not in objects(url)


def held_elsewhere(url: str, name: str = "lock") -> tuple:
    """A lease as another host holds it: (file system, path, content)."""
    filesystem, root = open_store(url)
    content = {"pid": 7, "host": "elsewhere", "time": "noon", "token": "theirs", "renewals": 0}
    filesystem.pipe_file(f"{root}/{name}", json.dumps(content).encode())
    return filesystem, f"{root}/{name}", content


@pytest.mark.parametrize("theirs, mine", [("lock", Part()), ("lock-0of2", Part()),
                                          ("lock", Part(1, 2)),
                                          ("lock-training-1f3a", Part())])  # fmt: skip
def test_a_lease_that_is_renewed_keeps_others_out(url, quick, theirs, mine):
    filesystem, path, content = held_elsewhere(url, theirs)
    stop = threading.Event()

    def renew():
        while not stop.wait(0.05):
            content["renewals"] += 1
            filesystem.pipe_file(path, json.dumps(content).encode())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="in use by pid 7 on elsewhere since noon"):
            Run.open(RECIPE, url, part=mine).__enter__()
    finally:
        stop.set()
        thread.join()


def test_a_lease_of_a_killed_holder_is_taken_over(url, quick, caplog, monkeypatch):
    monkeypatch.setattr(lease, "time", Impatient())
    held_elsewhere(url)
    with Run.open(RECIPE, url):
        assert "taking over from pid 7 on elsewhere" in caplog.text
    assert "lock" not in objects(url)


def test_of_two_that_take_over_one_goes_on(url, quick, monkeypatch):
    """Here the slower one removes the lease of the faster with the dead one's."""
    monkeypatch.setattr(lease, "time", Impatient())
    held_elsewhere(url)
    create = lease.Lease._create

    def removed_at_once(self):
        took_over = create(self)
        held_elsewhere(url)
        return took_over

    monkeypatch.setattr(lease.Lease, "_create", removed_at_once)
    with pytest.raises(ConfigError, match="in use by pid 7 on elsewhere"):
        Run.open(RECIPE, url).__enter__()
    assert "lock" in objects(url)  # theirs


def test_of_the_whole_and_a_part_that_start_at_the_same_moment_not_both_go_on(quick, monkeypatch):
    monkeypatch.setattr(lease, "DEAD", 5.0)
    both_there = threading.Barrier(2)

    def listed(*where):
        both_there.wait()
        return list_objects(*where)

    monkeypatch.setattr(lease, "list_objects", listed)
    store, root = open_store(f"memory://bucket/{uuid.uuid4().hex[:8]}")

    def start(name):
        try:
            return lease.Lease(store, root, name, "memory://", lambda other: other != name)
        except ConfigError:
            return None

    with ThreadPoolExecutor(2) as threads:
        held = [found for found in threads.map(start, ["lock", "lock-0of2"]) if found]
    for found in held:
        found.release()
    assert len(held) < 2


def test_only_a_process_of_this_very_machine_is_known_to_be_dead():
    """Hosts of one name, as containers on one network have, are told apart."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    who = {"pid": gone.pid, "host": socket.gethostname(), "machine": lease._machine()}
    assert lease._died_here(who)
    assert not lease._died_here({**who, "machine": "another"})
    assert not lease._died_here({**who, "pid": os.getpid()})


def test_who_has_lost_the_lease_writes_nothing_more(url, quick):
    def lose() -> None:
        with Run.open(RECIPE, url) as run:
            with pytest.raises(EnvironmentFault):
                while True:  # a renewal in flight may overwrite the first
                    held_elsewhere(url)
                    mirror.mirror_of(run.path).lease.check()
                    time.sleep(0.02)
            run.store("samples").append(rows(1))

    with pytest.raises(EnvironmentFault, match=r"lease is lost \(taken over by"):
        lose()
    assert not any(name.startswith("samples") for name in objects(url))
    assert "lock" in objects(url)  # theirs


def test_unknown_and_uninstalled_stores_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="nosuch"):
        run_folder("nosuch://bucket/run")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(EnvironmentFault, match="pip install gcsfs"):
        run_folder("gs://bucket/run")
