"""Where models come from: a Hub that refuses, limits, moves and vanishes; buckets; directories."""

import errno
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier

import fsspec
import huggingface_hub
import pytest
from huggingface_hub.errors import CacheNotFound

from tests.weights.hub_server import FakeHub, Resolver
from tests.weights.kit import small_checkpoint
from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.weights import (
    download_dataset,
    model_headers,
    model_revision,
    resolve_model,
)

pytestmark = pytest.mark.hub

ONE, TWO = "1" * 40, "2" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"import os",
    "onnx/model.safetensors": b"a copy for others",
    "consolidated.safetensors": b"the weights once more, as Mistral has them",
}


@pytest.fixture(scope="module")
def hub():
    hub = FakeHub()
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def resolve(hub, tmp_path_factory):
    resolver = Resolver(hub.url, tmp_path_factory.mktemp("hf"))
    yield resolver
    resolver.stop()


def test_only_weights_and_tokenizer_are_fetched(hub, resolve):
    hub.repositories["owner/model"] = {"commit": ONE, "files": FILES}
    answer = resolve("owner/model")
    assert answer["commit"] == ONE
    names = sorted(path.name for path in Path(answer["folder"]).iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]


def test_headers_are_all_but_the_weights_and_say_how_much_those_are(hub, resolve, tmp_path):
    """Headers alone are no checkpoint: a run that is resumed does not take them for one."""
    hub.repositories["owner/light"] = {"commit": ONE, "files": FILES}
    pins = tmp_path / "models.json"
    pins.write_text(json.dumps({"owner/light": {"revision": None, "commit": ONE}}))
    answer = resolve("owner/light", revisions=pins, headers=True)
    assert answer["to_fetch"] == len(FILES["model.safetensors"]) and answer["here"] is None
    names = sorted(path.name for path in Path(answer["folder"]).iterdir())
    assert names == ["config.json", "tokenizer.json"]
    resolve("owner/light")
    answer = resolve("owner/light", revisions=pins, headers=True)
    assert answer["to_fetch"] == 0 and answer["here"] == answer["folder"]


def test_a_repository_of_pickles_alone_is_refused_by_its_names(hub, resolve):
    files = {name: data for name, data in FILES.items() if name != "model.safetensors"}
    hub.repositories["owner/pickles"] = {"commit": ONE, "files": files}
    answer = resolve("owner/pickles", headers=True)
    assert answer["error"] == "InputError" and "no weights in safetensors" in answer["text"]


# --- 34: a Hub that refuses, limits, is away --------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_gated_repository_names_its_licence_page(status, hub, resolve):
    name = f"owner/gated-{status}"
    hub.refuse[name] = [(status, {"X-Error-Code": "GatedRepo"})] * 9
    answer = resolve(name)
    assert answer["error"] == "MissingRequirement"
    assert f"accept its licence at https://huggingface.co/{name}" in answer["text"]
    assert "hf auth login" in answer["text"]


def test_a_proxy_that_forbids_is_the_network_and_no_licence(hub, resolve):
    hub.refuse["owner/behind"] = [(403, {})] * 9
    answer = resolve("owner/behind")
    assert answer["error"] == "EnvironmentFault" and "cannot be reached" in answer["text"]
    assert "licence" not in answer["text"] and "403" in answer["text"]
    hub.refuse["owner/no"] = [(403, {"X-Request-Id": "1"})] * 9
    answer = resolve("owner/no")
    assert answer["error"] == "MissingRequirement" and "your token may read" in answer["text"]


def test_absent_repository_and_revision(hub, resolve):
    assert "no such repository on the Hub, or it is private" in resolve("owner/nothing")["text"]
    hub.repositories["owner/one"] = {"commit": ONE, "files": FILES}
    assert "has no revision 'v9'" in resolve("owner/one", "v9")["text"]


def test_rate_limit_is_waited_out(hub, resolve):
    hub.repositories["owner/busy"] = {"commit": ONE, "files": FILES}
    hub.refuse["owner/busy"] = [(429, {"Retry-After": "0"}), (503, {"Retry-After": "0"})]
    assert resolve("owner/busy")["commit"] == ONE


def test_endless_rate_limit_says_try_later(hub, resolve):
    hub.refuse["owner/swamped"] = [(429, {"Retry-After": "0"})] * 99
    answer = resolve("owner/swamped")
    assert answer["error"] == "RetryLater"
    assert "the Hub answered 429 5 times; try again later" in answer["text"]


# --- 35: a revision that changes under a run --------------------------------------------------


def test_revision_that_moves_is_pinned(hub, resolve, tmp_path):
    """main moves under a run: the run keeps its commit, a new run gets the new one."""
    revisions = tmp_path / "models.json"
    hub.repositories["owner/moving"] = {"commit": ONE, "files": FILES}
    assert resolve("owner/moving", None, revisions)["commit"] == ONE
    assert json.loads(revisions.read_text()) == {"owner/moving": {"revision": None, "commit": ONE}}
    hub.repositories["owner/moving"] = {"commit": TWO, "files": FILES}
    assert resolve("owner/moving", None, revisions)["commit"] == ONE
    assert resolve("owner/moving", "main", revisions)["commit"] == ONE
    assert resolve("owner/moving", None, tmp_path / "other.json")["commit"] == TWO


def test_another_revision_under_a_run_is_refused(hub, resolve, tmp_path):
    revisions = tmp_path / "models.json"
    hub.repositories["owner/fixed"] = {"commit": ONE, "files": FILES}
    resolve("owner/fixed", "main", revisions)
    answer = resolve("owner/fixed", "v2", revisions)
    assert answer["error"] == "InputError"
    assert f"this run began with revision main (commit {ONE}), not v2" in answer["text"]
    revisions.write_text("[")
    assert "models.json: damaged" in resolve("owner/fixed", "main", revisions)["text"]


def test_offline_uses_the_cache(tmp_path):
    hub = FakeHub()
    hub.repositories["owner/model"] = {"commit": ONE, "files": FILES}
    resolve = Resolver(hub.url, tmp_path)
    try:
        online = resolve("owner/model")
        hub.stop()
        assert resolve("owner/model") == online
        answer = resolve("owner/other")
        assert answer["error"] == "EnvironmentFault"
        assert "not in the local cache, and the Hub cannot be reached" in answer["text"]
        assert "hf download owner/other" in answer["text"]
    finally:
        resolve.stop()


# --- buckets ---------------------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """(file system in memory, its URL) with a checkpoint, and a cache of its own."""
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path / "cache"))
    small_checkpoint(tmp_path / "hf")
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    for file in (tmp_path / "hf").iterdir():
        filesystem.pipe(f"/bucket/model/{file.name}", file.read_bytes())
    for name in ("pytorch_model.bin", "consolidated-00001.safetensors"):
        filesystem.pipe(f"/bucket/model/{name}", b"not read")
    yield filesystem, "memory://bucket/model"
    filesystem.store.clear()


def test_bucket_is_copied_once(bucket, tmp_path):
    _, url = bucket
    folder = resolve_model(url)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    original = tmp_path / "hf" / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == original.read_bytes()
    before = folder.stat().st_mtime_ns
    assert resolve_model(url) == folder
    assert folder.stat().st_mtime_ns == before


def test_bucket_that_changes_under_a_run_is_refused(bucket, tmp_path):
    filesystem, url = bucket
    revisions = tmp_path / "models.json"
    folder = resolve_model(url, revisions=revisions)
    filesystem.pipe("/bucket/model/config.json", b'{"other": 1}')
    with pytest.raises(InputError, match="its files changed since this run began"):
        resolve_model(url, revisions=revisions)
    assert resolve_model(url) != folder


class OfTheStore(Exception):
    """What a store's own client raises: no OSError, as those of gcsfs and botocore."""


def breaking_after(patch, filesystem, count) -> list[str]:
    """From now on so many files arrive, then the connection is gone; which ones were asked for."""
    asked, numbers, get_file = [], itertools.count(1), type(filesystem).get_file

    def get(self, source, target, **more):
        number = next(numbers)
        asked.append(source.rpartition("/")[2])
        time.sleep(0.01)  # a second process would begin before the first one ends
        if number > count:
            raise OfTheStore("503 Service Unavailable")
        return get_file(self, source, target, **more)

    patch.setattr(type(filesystem), "get_file", get)
    return asked


def test_a_download_that_broke_off_goes_on_with_the_files_that_are_missing(
    bucket, tmp_path, monkeypatch
):
    filesystem, url = bucket
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        filesystem.pipe(f"/bucket/model/{name}", name.encode())
    with monkeypatch.context() as patch:
        breaking_after(patch, filesystem, 2)
        with pytest.raises(EnvironmentFault, match=r"memory://bucket/model: .*503 Service"):
            resolve_model(url)
    cache = tmp_path / "cache"
    kept = {file.name for file in cache.rglob("*.*") if not file.name.startswith(".")}
    assert len(kept) == 2
    asked = breaking_after(monkeypatch, filesystem, 99)
    names = {file.name for file in resolve_model(url).iterdir()}
    assert len(names) == 5 and names > kept
    assert sorted(asked) == sorted(names - kept)
    assert not list(cache.rglob("*.partial"))


def test_a_bucket_that_refuses_small_files_is_named(bucket, monkeypatch):
    filesystem, url = bucket
    breaking_after(monkeypatch, filesystem, 0)
    with pytest.raises(EnvironmentFault, match=r"memory://bucket/model: .*503 Service"):
        model_headers(url)


def test_processes_of_one_host_fetch_a_model_once(bucket, monkeypatch):
    filesystem, url = bucket
    asked, began = breaking_after(monkeypatch, filesystem, 99), Barrier(3)

    def resolve(url):
        began.wait()
        return resolve_model(url)

    with ThreadPoolExecutor(3) as pool:
        (folder,) = set(pool.map(resolve, [url] * 3))
    assert sorted(asked) == sorted(file.name for file in folder.iterdir())


def test_bucket_without_a_checkpoint(bucket):
    with pytest.raises(InputError, match=r"no checkpoint there \(no config\.json\)"):
        resolve_model("memory://bucket/empty")


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed here")
def test_bucket_whose_package_is_missing():
    with pytest.raises(EnvironmentFault, match="pip install gcsfs"):
        resolve_model("gs://bucket/model")


def test_unknown_kind_of_path():
    with pytest.raises(InputError, match="floppy://disk/a"):
        resolve_model("floppy://disk/a")


# --- directories -----------------------------------------------------------------------------


def test_directories_and_packaged_models(tmp_path):
    assert resolve_model(str(tmp_path)) == tmp_path
    assert model_revision(tmp_path) is None
    with pytest.raises(InputError, match="mini:guard, mini:student"):
        resolve_model("mini:professor")
    for name in ("nothing-here", "./a/b", "/no/such", "a/b/c"):
        with pytest.raises(InputError, match="no such directory, and not a Hub id"):
            resolve_model(name)


@pytest.mark.parametrize("ask", [resolve_model, model_headers])
def test_a_folder_that_is_not_there_is_said_to_be_one_that_may_be_meant(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvironmentFault, match="the Hub cannot be reached") as caught:
        ask("models/SmolLM2")
    assert "folder meant" not in str(caught.value)
    (tmp_path / "models").mkdir()
    with pytest.raises(EnvironmentFault, match="Or is a folder meant") as caught:
        ask("models/SmolLM2")
    assert "models is here, models/SmolLM2 is not" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write, no space left on device"),
        (RuntimeError("Data processing error: CAS service error"), "the Hub cannot be reached"),
        (CacheNotFound("no cache", "/gone"), "the Hub cannot be reached"),
    ],
)
def test_what_breaks_a_download_is_one_sentence(error, said, monkeypatch):
    """A full disk is said to be one; what hf_xet and the package itself raise is no traceback."""

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(EnvironmentFault, match=said):
        resolve_model("owner/model")


def test_the_command_that_downloads_a_dataset_says_that_it_is_one():
    with pytest.raises(EnvironmentFault) as caught:
        download_dataset("owner/rows", None)
    assert "(HF_HUB_OFFLINE is set)" in str(caught.value)
    assert "`hf download owner/rows --repo-type dataset`" in str(caught.value)
