"""Which model a folder holds: whatever changes what it says changes its fingerprint."""

import json
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import thinksafe_jax.weights
from thinksafe_jax.weights import changed_files, fingerprint, identity, resolve_model


@pytest.fixture
def folder(tmp_path):
    """A copy of the packaged student that may be changed."""
    copy = tmp_path / "student"
    shutil.copytree(resolve_model("mini:student"), copy)
    return copy


def edit_json(name, **values):
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(content | values), encoding="utf-8")

    return edit


def edit_tensor(name, change):
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        tensors[name] = change(tensors[name])
        save_file(tensors, file)

    return edit


def write(name, text):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


NORM = "model.norm.weight"
CHANGES = {
    "weights of one tensor": ("model.safetensors", edit_tensor(NORM, lambda x: x * 2)),
    "dtype": ("model.safetensors", edit_tensor(NORM, lambda x: x.astype(ml_dtypes.bfloat16))),
    "eos": ("generation_config.json", edit_json("generation_config.json", eos_token_id=[7])),
    "template in the config": (
        "tokenizer_config.json",
        edit_json("tokenizer_config.json", chat_template="{{ messages }}"),
    ),
    "rope": ("config.json", edit_json("config.json", rope_theta=1.0)),
    "tokenizer": ("tokenizer.json", edit_json("tokenizer.json", normalizer={"type": "NFC"})),
    "template of its own": ("chat_template.jinja", write("chat_template.jinja", "{{ messages }}")),
    "added tokens": ("added_tokens.json", write("added_tokens.json", "{}")),
    "special tokens": ("special_tokens_map.json", write("special_tokens_map.json", "{}")),
    "merges": ("merges.txt", write("merges.txt", "a b")),
    "index": ("model.safetensors.index.json", write("model.safetensors.index.json", "{}")),
    "adapter": ("adapter_config.json", write("adapter_config.json", '{"lora_alpha": 8}')),
}


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_what_is_said_is_named(folder, name, large, monkeypatch):
    if large:  # as of weights that are not read whole
        monkeypatch.setattr(identity, "_WHOLE", 0)
    file, change = CHANGES[name]
    before, there = fingerprint(folder), (folder / file).exists()
    change(folder)
    what = "has changed" if there else "is new"
    assert changed_files(before, fingerprint(folder)) == [f"{file} {what}"]
    (folder / file).unlink()
    assert changed_files(before, fingerprint(folder)) == ([f"{file} is gone"] if there else [])


def test_what_says_nothing_does_not_count(folder):
    """Nor does the place, nor the time of a file."""
    before = fingerprint(folder)
    copy = "consolidated.safetensors"  # of Mistral's repositories: looked at by earlier versions
    assert changed_files({**before, copy: "sha256:1"}, before) == []
    for name in ("README.md", "trainer_state.json", "optimizer.pt", "events.out", copy):
        (folder / name).write_text("{}")
    os.utime(folder / "model.safetensors", (0, 0))
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    assert changed_files(before, fingerprint(elsewhere)) == []


def test_a_large_tensor_is_told_by_blocks_and_in_full_by_every_byte(tmp_path, monkeypatch):
    """A byte in the middle of a megabyte is seen where it was asked for, its ends always."""
    monkeypatch.setattr(identity, "_WHOLE", 0)
    file, values = tmp_path / "model.safetensors", np.zeros(1 << 20, np.float32)

    def told(full, *places):
        changed = values.copy()
        changed[list(places)] = 1
        save_file({"x": changed}, file)
        return fingerprint(tmp_path, full=full)

    for full in (False, True):
        for place in (0, 100, values.size - 1):
            assert changed_files(told(full), told(full, place)), (full, place)
    assert changed_files(told(True), told(True, 9000)) == ["model.safetensors has changed"]
    assert changed_files(told(False), told(False, 9000)) == []
    assert changed_files(told(False), told(True)) == []  # begun without, asked for later
    monkeypatch.setenv("THINKSAFE_FINGERPRINT", "full")
    assert fingerprint(tmp_path) == told(True)


def test_weights_that_cannot_be_read_have_one_too(tmp_path, monkeypatch):
    """Of a served guard only the tokenizer is used: its weights may be of any kind."""
    monkeypatch.setattr(identity, "_WHOLE", 0)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    pointer = fingerprint(tmp_path)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v2")
    assert changed_files(pointer, fingerprint(tmp_path)) == ["model.safetensors has changed"]
    file.write_bytes(b"")
    assert fingerprint(tmp_path)


def test_an_orbax_copy_is_told_by_its_manifest(folder, tmp_path):
    thinksafe_jax.weights.convert_checkpoint(str(folder), tmp_path / "copy")
    before = fingerprint(tmp_path / "copy")
    assert "manifest.json" in before
    edit_json("manifest.json", made="elsewhere")(tmp_path / "copy")
    assert changed_files(before, fingerprint(tmp_path / "copy")) == ["manifest.json has changed"]
