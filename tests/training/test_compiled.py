"""Memory of a compiled step, without weights and without the devices."""

import dataclasses

import jax

from tests.support import tiny_config
from tests.training import kit
from thinksafe_jax.parallel import load_mesh
from thinksafe_jax.training.compiled import _shape, step_memory

CFG = tiny_config(vocab_size=2048, num_heads=4)


def memory(**changes):
    config = kit.settings(max_length=256, micro_batch_size=1, **changes)
    return step_memory(CFG, load_mesh("cpu-8"), config)


def test_it_follows_what_the_recipe_keeps_and_allocates_nothing():
    before = len(jax.live_arrays())
    layer, everything = memory(remat="layer"), memory(remat="none")
    assert len(jax.live_arrays()) == before
    assert layer.pass_shape == (4, 256)  # a sequence for each device that holds rows
    assert layer.temporaries < everything.temporaries
    assert layer.arguments == everything.arguments > 0
    assert dataclasses.asdict(layer)["compiled_for"] == "cpu"


def test_the_usual_shapes_of_a_pod():
    assert [_shape(n, 2) for n in (4, 8, 16, 64, 256)] == ["2x2", "2x4", "4x4", "8x8", "16x16"]
    assert [_shape(n, 3) for n in (1, 4, 8, 64)] == ["1x1x1", "2x2x1", "2x2x2", "4x4x4"]
