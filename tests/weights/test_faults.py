"""Damaged and hostile checkpoints: one plain sentence with the file, the key and the fix."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.weights.kit import CONFIG, same_bits, small_checkpoint
from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.models import load_config, parse_config
from thinksafe_jax.weights import (
    convert_checkpoint,
    load_params,
    read_manifest,
    resolve_model,
    save_checkpoint,
)

pytestmark = pytest.mark.slow

INDEX = "model.safetensors.index.json"


FLOAT_OFFSETS = b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}'


def with_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(4)


def refusal(folder, cfg) -> str:
    """The sentence with which loading is refused; it names the folder or a file in it."""
    with pytest.raises(InputError) as caught:
        load_params(folder, cfg, jnp.float32)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# --- 26: what is no safetensors file ---------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "model.safetensors: 0 bytes, an empty file. Download it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 42\n",
            "a Git LFS pointer, not the weights. Run `git lfs pull` there",
        ),
        (
            b"<!DOCTYPE html><html><body>Sign in</body></html>",
            "an HTML page, not the weights; a login page was saved. Log in",
        ),
        (b"\n <HTML><head></head></HTML>", "an HTML page"),
        (struct.pack("<Q", 10**12) + b"{}" * 8, "truncated or not safetensors"),
        (struct.pack("<Q", 16) + b"{not json at all", "unreadable safetensors header"),
        (struct.pack("<Q", 16) + b'["a", "list"]   ', "unreadable safetensors header"),
        (with_header(b'{"a":' * 20_000), "unreadable safetensors header (nested too deeply)"),
        (with_header(FLOAT_OFFSETS), "offsets and shape of x are whole numbers in a sound file"),
    ],
    ids=["empty", "lfs", "html", "html-upper", "huge-header", "garbage", "list", "deep", "floats"],
)
def test_impostors(content, sentence, tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert sentence in refusal(tmp_path, cfg)


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.001])
def test_truncated_file(keep, tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    text = refusal(tmp_path, cfg)
    assert "model.safetensors" in text
    assert "truncated" in text
    assert "Download it again" in text


def test_foreign_tail(tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert "has a foreign tail" in refusal(tmp_path, cfg)


def test_quantised_checkpoint(tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    content = load_file(tmp_path / "model.safetensors")
    content["model.norm.weight"] = np.ones(32, np.int8)
    save_file(content, tmp_path / "model.safetensors")
    text = refusal(tmp_path, cfg)
    assert "model.norm.weight has dtype I8" in text
    assert "must be dequantised first" in text


# --- 27: NaN and infinity --------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nonfinite_weights(value, dtype, tmp_path):
    cfg, _ = small_checkpoint(tmp_path, dtype=dtype)
    content = load_file(tmp_path / "model.safetensors")
    content["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(content, tmp_path / "model.safetensors")
    text = refusal(tmp_path, cfg)
    assert (
        "NaN or infinity in model.layers.1.mlp.up_proj.weight (model.safetensors); the "
        "checkpoint is damaged. --allow-nonfinite (allow_nonfinite=True) loads it" in text
    )
    loaded = load_params(tmp_path, cfg, jnp.float32, allow_nonfinite=True)
    assert not np.isfinite(loaded["layers"]["up_proj"]["kernel"][1, 3, 5])


def test_values_too_large_for_the_target_dtype(tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    content = load_file(tmp_path / "model.safetensors")
    content["model.norm.weight"][0] = 1e30
    save_file(content, tmp_path / "model.safetensors")
    load_params(tmp_path, cfg, jnp.bfloat16)
    with pytest.raises(InputError, match=r"infinity in model\.norm\.weight"):
        load_params(tmp_path, cfg, jnp.float16)


# --- 28: keys and shards ---------------------------------------------------------------------


def test_duplicate_key_in_the_header(tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    header = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    assert "unreadable safetensors header (the key 'a' stands there twice)" in refusal(
        tmp_path, cfg
    )


@pytest.mark.parametrize("offsets", [[0, 4], [8, 12]], ids=["overlap", "hole"])
def test_tensors_that_overlap_or_leave_holes(offsets, tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    header = json.dumps(
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": offsets},
        }
    ).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 12)
    assert "overlaps its neighbour or leaves a hole" in refusal(tmp_path, cfg)


@pytest.fixture
def sharded(tmp_path):
    """(folder, cfg, index, shard names) of a checkpoint in several shards."""
    cfg, _ = small_checkpoint(tmp_path, max_shard=20_000)
    index = json.loads((tmp_path / INDEX).read_text())
    return tmp_path, cfg, index, sorted(set(index["weight_map"].values()))


def test_key_in_two_shards(sharded):
    folder, cfg, _, shards = sharded
    one, two = load_file(folder / shards[0]), load_file(folder / shards[1])
    name = next(iter(one))
    save_file({**two, name: one[name]}, folder / shards[1])
    assert f"{name} is in both {shards[0]} and {shards[1]}" in refusal(folder, cfg)


def test_missing_shards_are_all_listed(sharded):
    folder, cfg, _, shards = sharded
    (folder / shards[1]).unlink()
    (folder / shards[2]).unlink()
    text = refusal(folder, cfg)
    assert f"missing shards: {shards[1]}, {shards[2]}. Download them again" in text


def test_index_that_promises_an_absent_tensor(sharded):
    folder, cfg, index, shards = sharded
    index["weight_map"]["model.ghost.weight"] = shards[0]
    (folder / INDEX).write_text(json.dumps(index))
    assert "promises tensors that no shard holds: model.ghost.weight" in refusal(folder, cfg)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("[]", "a JSON object was expected, not list"),
        ("{}", "not a safetensors index"),
        ('{"weight_map": 3}', "not a safetensors index"),
        ('{"weight_map": {"a": [1]}}', "not a safetensors index"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "not valid JSON (the key 'a' stands there twice)"),
        ('{"weight_map":' * 100_000, "not valid JSON (nested too deeply)"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_garbage_index(content, said, sharded):
    folder, cfg, _, _ = sharded
    (folder / INDEX).write_text(content)
    assert f"{INDEX}: {said}" in refusal(folder, cfg)


@pytest.mark.parametrize("place", ["model.safetensors", "config.json", INDEX])
def test_a_folder_in_the_place_of_a_file(place, tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    (tmp_path / place).unlink(missing_ok=True)
    (tmp_path / place).mkdir()
    with pytest.raises(InputError, match=f"{place}: is no regular file"):
        load_params(tmp_path, load_config(tmp_path) if place == "config.json" else cfg)


def test_every_misfit_is_listed_together(tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    content = load_file(tmp_path / "model.safetensors")
    del content["model.layers.0.self_attn.q_proj.weight"]
    del content["model.layers.1.self_attn.k_norm.weight"]
    content["model.layers.0.self_attn.q_proj.weight_scale"] = np.ones(1, np.float32)
    content["model.norm.weight"] = np.ones(7, np.float32)
    save_file(content, tmp_path / "model.safetensors")
    text = refusal(tmp_path, cfg)
    assert (
        "missing: model.layers.0.self_attn.q_proj.weight, model.layers.1.self_attn.k_norm" in text
    )
    assert "unknown: model.layers.0.self_attn.q_proj.weight_scale" in text
    assert "shapes: model.norm.weight is [7], config.json makes it [32]" in text


# --- 29: paths that lead out of the folder ---------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "x\0.safetensors",
        "..",
        "",
        "x" * 5000,
    ],
)
def test_path_traversal_in_the_index(name, sharded):
    folder, cfg, index, _ = sharded
    index["weight_map"]["model.norm.weight"] = name
    (folder / INDEX).write_text(json.dumps(index))
    assert f"shard {quoted(name)} is no plain file name; refused" in refusal(folder, cfg)


def test_link_out_of_the_folder(sharded, tmp_path_factory):
    folder, cfg, _, shards = sharded
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.safetensors"
    (folder / shards[0]).rename(elsewhere)
    (folder / shards[0]).symlink_to(elsewhere)
    assert f"{shards[0]}: is a link out of its folder, to {elsewhere}" in refusal(folder, cfg)


def test_a_single_file_is_no_link_out_either(tmp_path):
    cfg, _ = small_checkpoint(tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    file.symlink_to(file.rename(tmp_path / "elsewhere.safetensors"))
    assert "model.safetensors: is a link out of its folder" in refusal(tmp_path / "model", cfg)


def test_side_files_that_are_links_are_not_copied_out(tmp_path):
    """merges.txt -> a secret would go into every export."""
    cfg, params = small_checkpoint(tmp_path / "model")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "model/merges.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"merges\.txt: is a link out of its folder"):
        save_checkpoint(tmp_path / "out", params, cfg, CONFIG, tokenizer_from=tmp_path / "model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "x\0"])
def test_a_manifest_names_files_of_its_folder_only(tmp_path, name):
    facts = {"sha256": "0" * 64, "bytes": 1}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {name: facts}}))
    with pytest.raises(InputError, match="lies outside of the folder; refused"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "README.md"])
def test_a_folder_with_a_link_out_is_no_model(tmp_path, tmp_path_factory, name):
    """Whoever names the folder reads no other place, whichever file is the link."""
    small_checkpoint(tmp_path)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / name
    (tmp_path / name).touch()
    (tmp_path / name).rename(elsewhere)
    (tmp_path / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match=f"{name}: is a link out of its folder"):
        resolve_model(str(tmp_path))


def test_links_of_a_hub_cache_are_followed(tmp_path):
    """models--owner--name/snapshots/COMMIT/x -> ../../blobs/HASH is how the Hub's cache looks."""
    snapshot = tmp_path / "models--o--n" / "snapshots" / ("a" * 40)
    cfg, _ = small_checkpoint(snapshot, max_shard=20_000)
    blobs = tmp_path / "models--o--n" / "blobs"
    blobs.mkdir()
    for number, shard in enumerate(sorted(snapshot.glob("*.safetensors"))):
        shard.rename(blobs / str(number))
        shard.symlink_to(f"../../blobs/{number}")
    load_params(snapshot, cfg, jnp.float32)


# --- 30, 31, 32: what is never opened, and what is not supported -----------------------------


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"]
)
def test_pickle_only_repository(name, tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
    text = refusal(tmp_path, cfg)
    assert "only pickled weights" in text
    assert "never opened. Convert them to safetensors" in text


def test_no_weights_at_all(tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert f"no model.safetensors and no {INDEX}" in refusal(tmp_path, cfg)


def config_refusal(**facts) -> str:
    with pytest.raises(InputError) as caught:
        parse_config({**CONFIG, **facts}, source="here/config.json")
    assert str(caught.value).startswith("here/config.json")
    return str(caught.value)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0; a number from 1 on was expected"),
        ({"num_attention_heads": "32"}, "num_attention_heads is '32'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"model_type": ["llama"]}, r"model_type ['llama'] with architectures"),
    ],
)
def test_a_configuration_of_nonsense(facts, said):
    assert said in config_refusal(**facts)


def test_a_configuration_that_is_a_list(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="a JSON object was expected, not list"):
        load_config(tmp_path)


def test_remote_code(tmp_path):
    text = config_refusal(auto_map={"AutoModelForCausalLM": "modeling_evil.EvilModel"})
    assert "auto_map asks for remote code, which is never executed" in text


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "['Qwen3MoeForCausalLM'] are not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling 'yarn' is not"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "scaling lacks low_freq_factor"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of"),
        ({"rms_norm_eps": None}, "rms_norm_eps is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_config_names_the_field(facts, sentence):
    assert sentence.replace(" are not", " is not") in config_refusal(**facts)


def test_vocabulary_that_differs_from_the_embedding(tmp_path):
    small_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 100}))
    text = refusal(tmp_path, load_config(tmp_path))
    assert (
        "model.embed_tokens.weight is [64, 32], config.json makes it [100, 32] (vocab_size" in text
    )


def test_tied_flag_that_contradicts_the_weights(tmp_path):
    small_checkpoint(tmp_path / "untied", tie_word_embeddings=False)
    (tmp_path / "untied" / "config.json").write_text(json.dumps(CONFIG))
    text = refusal(tmp_path / "untied", load_config(tmp_path / "untied"))
    assert "tie_word_embeddings is true in config.json, but lm_head.weight differs" in text
    small_checkpoint(tmp_path / "tied")
    facts = {**CONFIG, "tie_word_embeddings": False}
    (tmp_path / "tied" / "config.json").write_text(json.dumps(facts))
    text = refusal(tmp_path / "tied", load_config(tmp_path / "tied"))
    assert "tie_word_embeddings is false in config.json, yet there is no lm_head.weight" in text


# --- weights that lie twice, or under other names ---------------------------------------------


def test_a_single_file_beside_an_index_of_other_shards(sharded):
    """transformers takes the single file, and whoever reads the index another model."""
    folder, cfg, _, shards = sharded
    save_file(load_file(folder / shards[0]), folder / "model.safetensors")
    said = refusal(folder, cfg)
    assert f"holds model.safetensors and, in {INDEX}, other shards ({shards[0]}" in said


def test_an_index_that_names_the_single_file(tmp_path):
    cfg, params = small_checkpoint(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    weight_map = dict.fromkeys(names, "model.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert same_bits(load_params(tmp_path, cfg, None), params)


def rename(folder, change) -> None:
    file = folder / "model.safetensors"
    save_file({change(name): value for name, value in load_file(file).items()}, file)


def test_of_a_tied_embedding_either_name_will_do(tmp_path):
    cfg, params = small_checkpoint(tmp_path)
    rename(tmp_path, lambda n: "lm_head.weight" if n == "model.embed_tokens.weight" else n)
    assert same_bits(load_params(tmp_path, cfg, None), params)


def test_an_unmerged_peft_model_says_what_to_do(tmp_path):
    cfg, _ = small_checkpoint(tmp_path)
    rename(tmp_path, lambda n: n.replace("q_proj.weight", "q_proj.base_layer.weight"))
    assert "merge it (merge_and_unload) and save it again" in refusal(tmp_path, cfg)


def test_an_adapter_beside_weights_is_said(tmp_path, caplog):
    cfg, _ = small_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    load_params(tmp_path, cfg, None)
    assert "holds an adapter beside the weights" in caplog.text


def test_written_weights_do_not_say_that_they_are_quantised(tmp_path):
    """Whoever reads the copy would look for scales that are not there."""
    cfg, params = small_checkpoint(tmp_path / "model")
    config = {**CONFIG, "quantization_config": {"quant_method": "fp8"}, "kept": 1}
    save_checkpoint(tmp_path / "out", params, cfg, config)
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    convert_checkpoint(str(tmp_path / "model"), tmp_path / "copy")
    for folder in ("out", "copy"):
        written = json.loads((tmp_path / folder / "config.json").read_text())
        assert "quantization_config" not in written
        assert written["kept"] == 1
