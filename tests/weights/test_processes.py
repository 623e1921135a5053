"""Two real processes over loopback: each reads its share, and together they write one export."""

import json

import jax
import jax.numpy as jnp
import pytest

from tests.support import run_processes
from tests.weights.kit import same_bits, small_checkpoint
from thinksafe_jax.models import LoraConfig, init_adapter, load_config
from thinksafe_jax.weights import import_adapter, load_params

pytestmark = pytest.mark.hosts

WORKER = """
import json
from pathlib import Path
import jax, jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from thinksafe_jax.errors import ThinkSafeError
from thinksafe_jax.models import LoraConfig, abstract_params, init_adapter, load_config
from thinksafe_jax.weights import export_adapter, load_params, save_checkpoint
from thinksafe_jax.weights.slices import LoadStats
from thinksafe_jax.weights.orbax import restore_copy, save_copy

folder = Path(ARGUMENTS[0])
source, cfg = folder / "hf", load_config(folder / "hf")
mesh = jax.make_mesh((4,), ("a",))

def cut(x):  # over the first axis that divides
    names = [None] * x.ndim
    axis = min((n for n in range(x.ndim) if x.shape[n] % 4 == 0), default=None)
    if axis is not None:
        names[axis] = "a"
    return NamedSharding(mesh, PartitionSpec(*names))

shardings = jax.tree.map(cut, abstract_params(cfg, jnp.float32))
stats = LoadStats()
params = load_params(source, cfg, jnp.float32, shardings, stats=stats)
whole = load_params(source, cfg, jnp.float32)
whole = jax.tree.map(np.asarray, whole)

def same(tree):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(whole), strict=True)
    return all(bool((np.asarray(s.data) == full[s.index]).all()) for x, full in pairs
               for s in x.addressable_shards)

equal = same(params)
config = json.loads((source / "config.json").read_text())
save_checkpoint(folder / "merged", params, cfg, config, max_shard=20_000)
save_copy(folder / "orbax", params, cfg, config, source)
back = restore_copy(folder / "orbax", cfg, None, shardings)
restored = same(back)
lora = LoraConfig(r=4)
fresh = init_adapter(cfg, lora, jax.random.key(0))
adapter = jax.jit(lambda x: x, out_shardings=jax.tree.map(cut, fresh))(fresh)
export_adapter(folder / "adapter", adapter, lora, cfg, "owner/base")
refusals = []
for write in (
    lambda: save_checkpoint(folder / "foreign", params, cfg, config),
    lambda: save_copy(folder / "foreign", params, cfg, config, source),
):
    try:
        write()
    except ThinkSafeError as error:
        refusals.append(str(error))
print(json.dumps({"equal": equal, "restored": restored, "read": stats.bytes_read,
                  "held": stats.bytes_made, "size": sum(x.nbytes for x in jax.tree.leaves(whole)),
                  "refusals": refusals}))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder that both processes worked in, what each of them found)."""
    folder = tmp_path_factory.mktemp("two")
    small_checkpoint(folder / "hf")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "diary.txt").write_text("dear diary")
    outputs = run_processes(WORKER, 2, folder, devices=2)
    return folder, [json.loads(output.splitlines()[-1]) for output in outputs]


def test_each_process_reads_what_its_devices_hold(done):
    for own in done[1]:
        assert own["equal"]
        assert own["read"] == own["held"]
        assert own["held"] < 0.53 * own["size"]  # norms are whole on every device


def test_the_export_is_that_of_one_process(done, tmp_path):
    folder, _ = done
    cfg, params = small_checkpoint(tmp_path, max_shard=20_000)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert sorted(file.name for file in (folder / "merged").iterdir()) == names
    for name in names:
        assert (folder / "merged" / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert same_bits(load_params(folder / "merged", cfg, jnp.float32), params)


def test_the_orbax_copy_of_both_is_read_by_both_and_by_one(done):
    folder, outcomes = done
    assert all(own["restored"] for own in outcomes)
    cfg = load_config(folder / "orbax")
    expected = load_params(folder / "hf", cfg, jnp.float32)
    assert same_bits(load_params(folder / "orbax", cfg, None), expected)


def test_a_sharded_adapter_is_exported_whole(done):
    folder, _ = done
    cfg, lora = load_config(folder / "hf"), LoraConfig(r=4)
    adapter, settings = import_adapter(folder / "adapter", cfg)
    assert settings == lora
    assert same_bits(adapter, init_adapter(cfg, lora, jax.random.key(0)))


def test_a_refusal_of_the_writer_ends_both(done):
    folder, (writer, helper) = done
    assert all("holds something else than a model" in text for text in writer["refusals"])
    assert all("not written, process 0 failed" in text for text in helper["refusals"])
    assert len(writer["refusals"]) == len(helper["refusals"]) == 2
    assert [file.name for file in (folder / "foreign").iterdir()] == ["diary.txt"]
