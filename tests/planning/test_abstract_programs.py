"""The programs of a run from shapes alone: memory and collectives, without weights or devices."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tests.support import live_arrays, tiny_config
from tests.training import kit
from thinksafe_jax.planning.abstract_programs import (
    Sampler,
    decode_program,
    guard_program,
    prefill_program,
    shard_bytes,
    train_program,
)
from thinksafe_jax.planning.compiler import compile_program
from thinksafe_jax.planning.devices import compile_devices
from thinksafe_jax.planning.measure import filled_arguments
from thinksafe_jax.sharding import load_mesh

pytestmark = pytest.mark.slow

CFG = tiny_config(vocab_size=2048, num_heads=4)
MESH = load_mesh("cpu-8")
DTYPES = ("float32", "bfloat16")
SAMPLER = Sampler(slots=4, pool_tokens=512, longest=256, prompt=32, page_size=16)


def train_step(dtype="float32", **changes):
    config = kit.settings(max_length=256, micro_batch_size=1, **changes)

    def build(dtype):
        return train_program(CFG, MESH.train, jax.devices(), config, dtype)

    return build, compile_program(build, dtype, "train")


def test_memory_follows_what_the_recipe_keeps_and_nothing_is_allocated():
    before = len(live_arrays())
    (build, layer), (_, everything) = train_step(remat="layer"), train_step(remat="none")
    assert len(jax.live_arrays()) == before
    program = build("float32")
    assert (program.rows, program.tokens) == (4, 4 * 256)  # a sequence for each device with rows
    assert layer.temporaries < everything.temporaries
    assert layer.arguments == everything.arguments == shard_bytes(program.arguments)
    assert layer.compiler == "cpu"


def test_what_a_cpu_cannot_is_compiled_in_float32_and_scaled():
    (build, wide), (_, narrow) = train_step("float32"), train_step("bfloat16")
    assert narrow.compiler == "cpu (float32, scaled to bfloat16)"
    assert narrow.temporaries == round(wide.temporaries / 2)
    assert narrow.arguments == shard_bytes(build("bfloat16").arguments) < wide.arguments
    gathers = [found.collectives["all-gather"] for found in (narrow, wide)]
    assert gathers[0].count == gathers[1].count
    assert gathers[0].bytes == gathers[1].bytes / 2


def test_weights_in_training_and_their_gradients_are_float32_whatever_the_dtype():
    """Nothing of full fine-tuning is halved: the gradients' sum over the passes alone is that."""
    (_, wide), (build, narrow) = (train_step(d, full_finetune=True) for d in DTYPES)
    assert narrow.compiler == wide.compiler == "cpu"
    assert dataclasses.replace(narrow, seconds=0) == dataclasses.replace(wide, seconds=0)
    trainable = build("bfloat16").arguments[0].trainable
    assert narrow.temporaries >= shard_bytes(trainable)
    gradients = sum(leaf.size * 4 for leaf in jax.tree.leaves(trainable))
    assert narrow.collectives["all-reduce"].bytes >= gradients / 4  # of the mesh's model axes


@pytest.mark.parametrize("make", [decode_program, prefill_program])
def test_the_sampler_is_one_replica_on_its_own_devices(make):
    program = make(CFG, MESH.generate, jax.devices(), SAMPLER, "float32")
    assert program.devices == 4  # of the eight
    compiled = compile_program(
        lambda dtype: make(CFG, MESH.generate, jax.devices(), SAMPLER, dtype), "float32", "sample"
    )
    pools = shard_bytes(program.arguments[1])
    tokens = 16 * (1 + SAMPLER.pool_tokens // 16)
    assert pools == 2 * CFG.num_layers * (CFG.num_kv_heads // 2) * tokens * CFG.head_dim * 4
    assert compiled.arguments >= pools


def test_a_guard_reads_as_many_rows_as_its_mesh_has_parts():
    program = guard_program(CFG, MESH.generate, jax.devices(), 3, 64, "float32")
    assert (program.rows, program.tokens, program.devices) == (4, 256, 8)
    shapes = jax.eval_shape(lambda *a: program.function(*a, **program.statics), *program.arguments)
    assert shapes.shape == (4, 4, 9)
    assert shapes.dtype == jnp.float32


def test_more_chips_than_simulated_devices_are_refused():
    topology = dataclasses.replace(MESH.topology, chips=16)
    with pytest.raises(Exception, match="8 host devices, 16 are needed; set XLA_FLAGS"):
        compile_devices(topology)


def test_what_is_timed_reads_pages_of_each_slots_own():
    program = decode_program(CFG, MESH.generate, jax.devices(), SAMPLER, "float32")
    _, _, slots, table = filled_arguments(program, context=128)
    assert set(slots.position.tolist()) == {128}
    live = table[:, : 128 // SAMPLER.page_size]  # all of the pool but page 0, which is nobody's
    assert sorted(live.flatten().tolist()) == list(range(1, 1 + 512 // SAMPLER.page_size))
