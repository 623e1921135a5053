"""The whole flow on a mesh: replicas and tensor parallelism to generate, FSDP to train."""

import json

import jax
import numpy as np
import pytest

from tests.support import REPOSITORY
from thinksafe_jax.config import load_recipe
from thinksafe_jax.pipeline import Session, run_pipeline
from thinksafe_jax.runs import RowStore

pytestmark = pytest.mark.slow

SMALL = [
    "synthesis.limit=16", "synthesis.attempts=1", "synthesis.ladder=[]", "engine.slots=8",
    "evaluation.over_refusal=[]", "evaluation.reasoning=[]", "evaluation.harmful.0.limit=4",
    "evaluation.suites=[]", "training.epochs=1",
]  # fmt: skip


def mini(*overrides):
    return load_recipe(REPOSITORY / "configs/recipes/mini.yaml", [*SMALL, *overrides])


def responses(folder):
    rows = RowStore(folder / "samples", ("id", "attempt")).read()
    return {row["id"]: row["response"] for row in rows}


def test_a_recipe_with_a_mesh_runs_every_phase_on_it(tmp_path):
    # three heads do not lie on four devices: the guard has a mesh of its own
    text = (REPOSITORY / "configs/mesh/cpu-8.yaml").read_text()
    guard_mesh = tmp_path / "guard.yaml"
    guard_mesh.write_text(text.replace("replica: 2, tensor: 4", "replica: 8, tensor: 1"))
    recipe = mini("mesh=cpu-8", f"guard.mesh={guard_mesh}")
    run_pipeline(recipe, tmp_path / "mesh")
    run_pipeline(mini(), tmp_path / "alone", stages=["sample"])
    one, other = responses(tmp_path / "mesh"), responses(tmp_path / "alone")
    assert one.keys() == other.keys()
    # sums in another order: a near tie may be drawn differently, and then all that follows it
    assert sum(one[key] == other[key] for key in one) >= len(one) - 2
    verdicts = [json.loads(line)["verdict"] for path in (tmp_path / "mesh/verdicts").iterdir()
                for line in path.read_text().splitlines()]  # fmt: skip
    assert verdicts and set(verdicts) <= {"safe", "unsafe"}

    session = Session(recipe)
    embed = session.params["embed"]
    assert len(embed.sharding.device_set) == 8  # two replicas of four devices
    engine = session.engine(tmp_path / "mesh")
    shapes = {
        device.params["embed"].sharding.shard_shape(embed.shape) for device in engine._devices
    }
    assert len(engine._devices) == 2 and shapes == {(embed.shape[0] // 4, embed.shape[1])}
    assert len(session.weights.for_training()["embed"].sharding.device_set) == 8


def test_replicas_share_the_weights_that_lie_on_their_devices():
    """No second copy: a replica's parameters are the very buffers that were loaded."""
    recipe = mini("mesh=cpu-8")
    session = Session(recipe)
    loaded = {s.device: s.data for s in session.params["embed"].addressable_shards}
    for device in session.engine()._devices:
        for shard in device.params["embed"].addressable_shards:
            ours, theirs = shard.data, loaded[shard.device]
            assert ours.unsafe_buffer_pointer() == theirs.unsafe_buffer_pointer()
    assert np.isfinite(jax.device_get(session.params["embed"])).all()
