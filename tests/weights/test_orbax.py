"""The Orbax copy: bit-identical both ways, and every damaged byte is found."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.weights.kit import same_bits, small_checkpoint
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import load_config
from thinksafe_jax.weights import convert_checkpoint, load_params


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(Hugging Face folder, Orbax folder, cfg, params); tests that damage it take a copy."""
    folder = tmp_path_factory.mktemp("made")
    cfg, params = small_checkpoint(folder / "hf", dtype=jnp.bfloat16)
    (folder / "hf" / "tokenizer.json").write_text("{}")
    text = convert_checkpoint(str(folder / "hf"), folder / "orbax")
    assert text.endswith("read back and bit-identical")
    return folder / "hf", folder / "orbax", cfg, params


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "orbax")
    return tmp_path / "orbax"


def refusal(folder) -> str:
    with pytest.raises(InputError) as caught:
        load_params(folder, load_config(folder), None)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_there_and_back(made, tmp_path):
    source, orbax, cfg, params = made
    assert same_bits(load_params(orbax, cfg, None), params)
    convert_checkpoint(str(orbax), tmp_path / "back")
    before, after = (f / "model.safetensors" for f in (source, tmp_path / "back"))
    assert before.read_bytes() == after.read_bytes()
    assert load_config(tmp_path / "back") == cfg
    assert (tmp_path / "back" / "tokenizer.json").exists()


def test_it_loads_sharded_and_cast(made):
    _, orbax, cfg, params = made
    mesh = jax.make_mesh((8,), ("a",))
    shardings = jax.tree.map(
        lambda x: NamedSharding(mesh, PartitionSpec(*[None] * (x.ndim - 1), "a")), params
    )
    loaded = load_params(orbax, cfg, jnp.float32, shardings)
    assert same_bits(loaded, jax.tree.map(lambda x: x.astype(jnp.float32), params))
    assert loaded["embed"].sharding == shardings["embed"]


def test_a_flipped_byte_in_any_file_is_found(copy):
    """Fault 18. Orbax alone restores it silently."""
    cfg = load_config(copy)
    for file in [p for p in copy.rglob("*") if p.is_file() and p.name != "manifest.json"]:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        file.write_bytes(flipped)
        name = re.escape(file.relative_to(copy).as_posix())
        with pytest.raises(InputError, match=rf"sha256 mismatch in {name}\. Make the copy again"):
            load_params(copy, cfg, None)
        file.write_bytes(content)
    load_params(copy, cfg, None)


@pytest.mark.parametrize("damage", ["missing", "truncated", "zero"])
def test_damaged_files(damage, copy):
    """Fault 19."""
    file = max((p for p in copy.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    name, size = file.relative_to(copy).as_posix(), file.stat().st_size
    if damage == "missing":
        file.unlink()
        assert f"{name} is missing" in refusal(copy)
    else:
        file.write_bytes(file.read_bytes()[: size // 2] if damage == "truncated" else b"")
        assert (
            f"{name} has {size // 2 if damage == 'truncated' else 0} bytes instead of {size}"
            in (refusal(copy))
        )


def test_an_unfinished_copy(copy):
    """Fault 20."""
    (copy / "manifest.json").unlink()
    assert "has no manifest.json, so it was never finished" in refusal(copy)
    (copy / "manifest.json").write_text("{")
    assert "manifest.json: damaged" in refusal(copy)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"embed": "flo}at32[96, 32]"}, "embed: stored flo}at32"),
        ({"embed": 3}, "embed: stored 3, config.json makes it"),
        ({"embed": None}, "embed: stored None"),
        ([], r"manifest.json: tree is \[\], not an object"),
    ],
)
def test_a_manifest_that_was_edited(tree, said, copy):
    """Fuzzing ended in a TypeError at a dtype that there is none of."""
    manifest = json.loads((copy / "manifest.json").read_text())
    tree = {**manifest["tree"], **tree} if isinstance(tree, dict) else tree
    (copy / "manifest.json").write_text(json.dumps({**manifest, "tree": tree}))
    assert re.search(said, refusal(copy))


def test_an_empty_folder_is_no_copy(copy):
    shutil.rmtree(copy / "params")
    (copy / "params").mkdir()
    assert "is missing" in refusal(copy)


@pytest.mark.parametrize("facts", [{"intermediate_size": 64}, {"tie_word_embeddings": False}])
def test_a_config_that_does_not_fit(facts, copy):
    """Fault 21: shapes are compared before anything is read, and nothing is cast in silence."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **facts}))
    cfg = load_config(copy)
    shutil.copyfile(copy / "config.json", copy / "changed.json")
    (copy / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    with pytest.raises(InputError) as caught:
        load_params(copy, cfg, None)
    text = str(caught.value)
    assert "the copy does not fit config.json" in text
    assert ("layers.up_proj.kernel: stored bfloat16[2, 48, 32]" in text) == (
        "intermediate_size" in facts
    )


def test_a_kill_leaves_no_half_copy(made, tmp_path):
    """What a killed conversion left beside the place is swept up by the next one."""
    source = made[0]
    leftover = tmp_path / ".out.partial"
    (leftover / "params").mkdir(parents=True)
    (leftover / "params" / "junk").write_text("half")
    convert_checkpoint(str(source), tmp_path / "out")
    assert not leftover.exists()
    assert not (tmp_path / "out" / "params" / "junk").exists()


def test_source_and_destination_must_differ(made):
    with pytest.raises(InputError, match="is the source itself"):
        convert_checkpoint(str(made[0]), made[0])
