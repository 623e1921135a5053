"""HF -> Flax -> HF is the same, key for key, dtype for dtype, bit for bit."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support import TINY, save_tiny
from tests.weights.kit import same_bits, small_checkpoint
from thinksafe_jax.errors import EnvironmentFault, InputError
from thinksafe_jax.models import load_config
from thinksafe_jax.weights import load_params, read_config_json, save_checkpoint
from thinksafe_jax.weights.slices import LoadStats


def tensors(folder):
    """Every tensor of a checkpoint: name -> (dtype, shape, bytes)."""
    found = {}
    for file in folder.glob("*.safetensors"):
        for name, value in load_file(file).items():
            found[name] = (value.dtype, value.shape, value.tobytes())
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_round_trip_is_bit_identical(name, dtype, tmp_path):
    source, out = tmp_path / "hf", tmp_path / "back"
    save_tiny(name, source, dtype)
    cfg = load_config(source)
    params = load_params(source, cfg, dtype=None)
    save_checkpoint(out, params, cfg, read_config_json(source), tokenizer_from=source)
    assert tensors(out) == tensors(source)
    assert read_config_json(out) == read_config_json(source)
    for file in source.iterdir():
        assert (out / file.name).exists(), f"{file.name} was lost"


def test_each_tensor_keeps_its_own_dtype(tmp_path):
    """Norms in float32 beside bfloat16 kernels: no dtype is assumed for a whole file."""
    cfg, _ = small_checkpoint(tmp_path / "hf", dtype=jnp.bfloat16)
    file = tmp_path / "hf" / "model.safetensors"
    mixed = {
        name: value.astype(np.float32) if "norm" in name else value
        for name, value in load_file(file).items()
    }
    save_file(mixed, file)
    params = load_params(tmp_path / "hf", cfg, dtype=None)
    save_checkpoint(tmp_path / "back", params, cfg, read_config_json(tmp_path / "hf"))
    assert tensors(tmp_path / "back") == tensors(tmp_path / "hf")
    assert {x.dtype for x in jax.tree.leaves(load_params(tmp_path / "hf", cfg, jnp.float32))} == {
        np.dtype(np.float32)
    }


def test_layers_of_several_dtypes_need_one_target(tmp_path):
    cfg, _ = small_checkpoint(tmp_path, dtype=jnp.bfloat16)
    content = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    content[name] = content[name].astype(np.float32)
    save_file(content, tmp_path / "model.safetensors")
    load_params(tmp_path, cfg, jnp.bfloat16)
    with pytest.raises(InputError, match=r"layers in several dtypes: .*layers\.1\.mlp\.up_proj"):
        load_params(tmp_path, cfg, dtype=None)


def test_the_cast_on_the_way_is_numpys(tmp_path):
    cfg, params = small_checkpoint(tmp_path)
    loaded = load_params(tmp_path, cfg, jnp.bfloat16)
    expected = jax.tree.map(lambda x: np.asarray(x).astype(ml_dtypes.bfloat16), params)
    assert same_bits(loaded, expected)


def test_shards_and_their_index(tmp_path):
    cfg, params = small_checkpoint(tmp_path, max_shard=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all((tmp_path / shard).stat().st_size < 20_000 + 4096 for shard in shards)
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in jax.tree.leaves(params))
    assert same_bits(load_params(tmp_path, cfg, jnp.float32), params)


def test_transformers_reads_our_shards(tmp_path):
    torch = pytest.importorskip("torch", reason="torch, the oracle, is not installed")
    from transformers import AutoModelForCausalLM

    source, out = tmp_path / "hf", tmp_path / "out"
    reference = save_tiny("qwen3-untied", source)
    cfg = load_config(source)
    params = load_params(source, cfg, jnp.float32)
    save_checkpoint(out, params, cfg, read_config_json(source), max_shard=40_000)
    again = AutoModelForCausalLM.from_pretrained(out)
    for name, value in reference.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_tied_head_stored_twice_is_accepted(tmp_path):
    cfg, params = small_checkpoint(tmp_path)
    content = load_file(tmp_path / "model.safetensors")
    content["lm_head.weight"] = content["model.embed_tokens.weight"].copy()
    save_file(content, tmp_path / "model.safetensors")
    assert same_bits(load_params(tmp_path, cfg, jnp.float32), params)


def test_old_config_layout_is_kept(tmp_path):
    """transformers 4 reads torch_dtype; a checkpoint that has it keeps it."""
    small_checkpoint(tmp_path, torch_dtype="bfloat16")
    config = read_config_json(tmp_path)
    assert config["torch_dtype"] == "float32"
    assert "dtype" not in config


def test_load_counts_its_bytes(tmp_path):
    cfg, params = small_checkpoint(tmp_path)
    stats = LoadStats()
    load_params(tmp_path, cfg, jnp.bfloat16, stats=stats)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    assert (stats.bytes_read, stats.bytes_made) == (size, size // 2)
    assert stats.gb_per_s > 0


def test_an_export_never_replaces_something_else(tmp_path):
    cfg, params = small_checkpoint(tmp_path / "hf")
    home = tmp_path / "home"
    home.mkdir()
    (home / "diary.txt").write_text("dear diary")
    with pytest.raises(InputError, match="holds something else than a model"):
        save_checkpoint(home, params, cfg, {})
    assert (home / "diary.txt").read_text() == "dear diary"


def test_an_export_that_fails_leaves_the_old_one(tmp_path):
    """A parent that cannot be written: a plain sentence, no half export."""
    cfg, params = small_checkpoint(tmp_path / "hf")
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="a file is in the way"):
        save_checkpoint(tmp_path / "file" / "out", params, cfg, {})
    before = tensors(tmp_path / "hf")
    broken = {**params, "embed": "not an array"}
    with pytest.raises(AttributeError):
        save_checkpoint(tmp_path / "hf", broken, cfg, {})
    assert tensors(tmp_path / "hf") == before
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".*.partial"))
