"""From the training layout to the sampler's and back: never two copies of the weights."""

import gc
import math

import jax
import numpy as np
import pytest

from tests.sharding.kit import TIED
from tests.support import REPOSITORY
from thinksafe_jax.config import load_recipe
from thinksafe_jax.models import init_params
from thinksafe_jax.pipeline import Session
from thinksafe_jax.sharding import ModelMesh, load_mesh, reshard

pytestmark = pytest.mark.slow

MESH = load_mesh("cpu-8")


def held(array) -> int:
    """Bytes on all devices."""
    shard = math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
    return shard * len(array.sharding.device_set)


def new_arrays(others: list[jax.Array]) -> list[jax.Array]:
    """All arrays alive but `others`, which were there before and stay."""
    known = {id(x) for x in others}
    return [x for x in jax.live_arrays() if id(x) not in known]


def live(others: list[jax.Array]) -> int:
    """Bytes of `new_arrays`; shared memory counts once."""
    shards = [shard.data for x in new_arrays(others) for shard in x.addressable_shards]
    return sum({(x.device, x.unsafe_buffer_pointer()): x.nbytes for x in shards}.values())


def test_one_leaf_at_a_time_is_there_twice(monkeypatch):
    train, generate = (ModelMesh.of_phase(p, TIED) for p in (MESH.train, MESH.generate))
    source = jax.device_put(init_params(TIED, jax.random.key(0)), train.param_shardings())
    expected = jax.tree.map(np.asarray, source)
    before = sum(map(held, jax.tree.leaves(source)))
    gc.collect()
    outside = new_arrays(jax.tree.leaves(source))
    seen, put = [], jax.device_put

    def watched(x, where):
        new = put(x, where)
        seen.append(live(outside))
        return new

    monkeypatch.setattr(jax, "device_put", watched)
    moved = reshard(source, generate.param_shardings())
    leaves = jax.tree.leaves(moved)
    after, largest = sum(map(held, leaves)), max(map(held, leaves))
    assert len(seen) == len(leaves)
    assert max(seen) <= max(before, after) + largest < before + after
    assert jax.tree.map(lambda x: x.sharding, moved) == generate.param_shardings()
    jax.tree.map(np.testing.assert_array_equal, moved, expected)


def test_a_session_has_its_student_once_whatever_the_phase():
    session = Session(load_recipe(REPOSITORY / "configs/recipes/mini.yaml", ["mesh=cpu-8"]))
    generate = jax.tree.map(np.asarray, session.params)
    assert session.params is session.params
    train = session.weights.for_training()
    assert session.training_mesh is not None and session.generation_mesh is not None
    assert jax.tree.map(lambda x: x.sharding, train) == session.training_mesh.param_shardings()
    jax.tree.map(np.testing.assert_array_equal, train, generate)
    back = session.params
    assert jax.tree.map(lambda x: x.sharding, back) == session.generation_mesh.param_shardings()
    jax.tree.map(np.testing.assert_array_equal, back, generate)


@pytest.mark.parametrize("where", [[], ["mesh=cpu-8"]], ids=["one device", "mesh"])
def test_the_sampler_has_the_weights_of_the_session_and_no_copy(where):
    """Layers apart for the sampler, stacked again for whoever asks later."""
    small = ["engine.pool_tokens=1024", "engine.max_length=512", *where]
    session = Session(load_recipe(REPOSITORY / "configs/recipes/mini.yaml", small))
    gc.collect()
    others = jax.live_arrays()
    expected = jax.tree.map(np.array, session.params)  # a view would keep the arrays alive
    once = live(others)
    engine = session.engine()
    gc.collect()
    page = session.recipe.engine.page_size
    pools = sum(held(x) for x in new_arrays(others) if x.ndim == 4 and x.shape[2] == page)
    assert pools > 0
    beside = live(others) - pools  # the weights, and the state of the slots
    assert once <= beside <= 1.05 * once
    del engine
    jax.tree.map(np.testing.assert_array_equal, session.params, expected)
    gc.collect()
    assert live(others) == once
