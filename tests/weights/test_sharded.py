"""Sharded load equals unsharded, and reads no more than what the devices hold."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from tests.support import PUBLISHED, REPOSITORY, live_arrays, shared_asset
from tests.weights.kit import same_bits, small_checkpoint
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import abstract_params, parse_config
from thinksafe_jax.sharding import ModelMesh, load_mesh
from thinksafe_jax.training import TrainingMesh
from thinksafe_jax.weights import load_params, save_checkpoint
from thinksafe_jax.weights.safetensors import read_header
from thinksafe_jax.weights.slices import Block, LoadStats, Reader, aligned_empty, all_finite

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, *small_checkpoint(folder, max_shard=30_000)


def sharding_tree(cfg, mesh, axis_from_the_end):
    """Every parameter cut over all of the mesh along one axis, where that divides."""

    def one(leaf):
        axis = leaf.ndim - 1 - axis_from_the_end
        divides = axis >= 0 and leaf.shape[axis] % mesh.size == 0
        names = [None] * leaf.ndim
        if divides:
            names[axis] = mesh.axis_names
        return NamedSharding(mesh, PartitionSpec(*names))

    return jax.tree.map(one, abstract_params(cfg, jnp.float32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("shape", "axis"), list(itertools.product([(8,), (2, 4), (2,)], [0, 1, 2, 3]))
)
def test_sharded_equals_unsharded(shape, axis, dtype, checkpoint):
    folder, cfg, _ = checkpoint
    mesh = jax.make_mesh(shape, ("a", "b")[: len(shape)], devices=jax.devices()[: np.prod(shape)])
    shardings = sharding_tree(cfg, mesh, axis)
    stats = LoadStats()
    sharded = load_params(folder, cfg, dtype, shardings, stats=stats)
    assert same_bits(sharded, load_params(folder, cfg, dtype))
    jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(f"{x.sharding}"), sharded, shardings)
    size = sum(ref.nbytes for file in folder.glob("*.safetensors") for ref in refs(file))
    assert stats.bytes_read == size  # replicas are read once, slices are not read twice


MESHES = sorted((REPOSITORY / "configs" / "mesh").glob("*.yaml"))


@pytest.mark.parametrize("kv_heads", [4, 1])
@pytest.mark.parametrize("phase", ["train", "generate"])
@pytest.mark.parametrize("file", MESHES, ids=lambda file: file.stem)
def test_every_rule_table_loads_the_same(file, phase, kv_heads, tmp_path):
    """Shrunk to 8 devices; with one KV head, tensor parallelism replicates it."""
    facts = {"num_attention_heads": 8, "num_key_value_heads": kv_heads, "intermediate_size": 64}
    cfg, params = small_checkpoint(tmp_path, **facts)
    kind = TrainingMesh if phase == "train" else ModelMesh
    mesh = kind.of_phase(getattr(load_mesh(file).shrink(8), phase), cfg)
    shardings = mesh.param_shardings()
    assert same_bits(load_params(tmp_path, cfg, jnp.float32, shardings), params)


def refs(file):
    return read_header(file).values()


def test_replicas_share_one_read(checkpoint):
    """Cut in two over four devices each: every half is read once."""
    folder, cfg, params = checkpoint
    mesh = jax.make_mesh((2, 4), ("cut", "copy"))
    shardings = jax.tree.map(
        lambda x: NamedSharding(mesh, PartitionSpec(*[None] * (x.ndim - 1), "cut")), params
    )
    stats = LoadStats()
    assert same_bits(load_params(folder, cfg, jnp.float32, shardings, stats=stats), params)
    assert stats.bytes_read == sum(x.nbytes for x in jax.tree.leaves(params))


def test_a_size_that_does_not_divide_is_refused(checkpoint):
    folder, cfg, params = checkpoint
    mesh = jax.make_mesh((3,), ("a",), devices=jax.devices()[:3])
    shardings = jax.tree.map(lambda x: SingleDeviceSharding(jax.devices()[0]), params)
    shardings["embed"] = NamedSharding(mesh, PartitionSpec("a"))
    with pytest.raises(ConfigError, match=r"embed \[64, 32\]: .* does not divide"):
        load_params(folder, cfg, jnp.float32, shardings)


@pytest.mark.parametrize("shape", [(6, 4, 300), (24, 300), (7200,), (6, 1, 4, 300), (2, 3, 7, 5)])
@pytest.mark.parametrize("to", ["float32", "bfloat16"])
def test_any_block_of_any_shape(shape, to, tmp_path):
    """Blocks drawn at random against numpy's own slicing; bytes read never exceed whole rows."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    value = rng.standard_normal(shape).astype(np.float32)
    save_file({"x": value.reshape(-1)}, tmp_path / "x.safetensors")
    ref = read_header(tmp_path / "x.safetensors")["x"]
    for _ in range(30):
        bounds = [sorted(rng.choice(size + 1, 2, replace=False)) for size in shape]
        index = tuple(slice(int(a), int(b)) for a, b in bounds)
        out = aligned_empty(value[index].shape, jnp.dtype(to))
        with Reader(threads=2) as reader:
            for job in reader.start(ref, shape, [Block(index, out)]):
                job.result()
        np.testing.assert_array_equal(out, value[index].astype(out.dtype))
        rows = value[index[0]].nbytes
        assert value[index].nbytes <= reader.stats.bytes_read <= rows


def test_wide_slices_are_read_without_their_neighbours(tmp_path):
    """A quarter of each row of 4 kB: a quarter of the file is read, not all of it."""
    from safetensors.numpy import save_file

    value = np.arange(64 * 1024, dtype=np.float32).reshape(64, 1024)
    save_file({"x": value}, tmp_path / "x.safetensors")
    ref = read_header(tmp_path / "x.safetensors")["x"]
    index = (slice(0, 64), slice(256, 512))
    out = aligned_empty((64, 256), np.float32)
    with Reader() as reader:
        for job in reader.start(ref, (64, 1024), [Block(index, out)]):
            job.result()
    np.testing.assert_array_equal(out, value[index])
    assert reader.stats.bytes_read == value.nbytes // 4


def test_a_sharded_model_is_exported_whole(checkpoint, tmp_path):
    folder, cfg, params = checkpoint
    mesh = jax.make_mesh((8,), ("a",))
    sharded = load_params(folder, cfg, jnp.float32, sharding_tree(cfg, mesh, 0))
    save_checkpoint(tmp_path / "out", sharded, cfg, {})
    assert same_bits(load_params(tmp_path / "out", cfg, jnp.float32), params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_all_finite_agrees_with_numpy(dtype):
    rng = np.random.default_rng(0)
    value = rng.standard_normal(300_000).astype(jnp.dtype(dtype))
    value[:2] = np.finfo(np.float16).max, -np.finfo(np.float16).tiny
    assert all_finite(value)
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = value.copy()
        spoilt[-1] = bad
        assert not all_finite(spoilt)


def test_real_shapes_as_abstract_trees():
    """Every real config.json: tree and shardings without an array, of the published size."""
    mesh_file = load_mesh("cpu-8")
    before = len(live_arrays())
    for file in sorted(shared_asset("configs").glob("*.json")):
        cfg = parse_config(json.loads(file.read_text()), source=str(file))
        tree = abstract_params(cfg, jnp.bfloat16)
        assert sum(x.size for x in jax.tree.leaves(tree)) == PUBLISHED[file.stem]
        for phase in (mesh_file.train, mesh_file.generate):
            shardings = ModelMesh.of_phase(phase, cfg).param_shardings()
            shards = jax.tree.map(lambda x, s: np.prod(s.shard_shape(x.shape)), tree, shardings)
            held = sum(jax.tree.leaves(shards))
            assert PUBLISHED[file.stem] / 8 <= held <= PUBLISHED[file.stem]
    assert len(jax.live_arrays()) == before
