"""A sharded model computes what the unsharded one does, with the collectives one would expect."""

import dataclasses
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tests.sharding.kit import BIASED, TIED, batch, phase
from tests.support import save_tiny
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import (
    LoraConfig,
    block,
    causal_attention,
    forward,
    init_adapter,
    init_params,
    load_config,
    logits,
    rope_tables,
    unstack_layers,
)
from thinksafe_jax.sharding import ModelMesh, Phase, load_mesh
from thinksafe_jax.weights import load_params

pytestmark = pytest.mark.slow

LORA = LoraConfig(r=4, targets=("q_proj", "o_proj"))
COLLECTIVES = ["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"]


@partial(jax.jit, static_argnums=4)
def score(params, tokens, positions, segments, cfg, adapter=None):
    hidden = forward(
        params, cfg, tokens, positions, segments, adapter=adapter, lora=LORA if adapter else None
    )
    return logits(params, cfg, hidden)


def collectives(compiled) -> dict[str, list[str]]:
    """Kind -> result types of the collectives in the compiled program."""
    text = compiled.as_text()
    return {
        kind: re.findall(rf"= \(?(\w+\[[\d,]*\])\S* (?:.*?\) )?{kind}(?:-start)?\(", text)
        for kind in COLLECTIVES
    }


@cache
def params_of(cfg):
    return init_params(cfg, jax.random.key(0), scale=0.2)


@cache
def expected(cfg):
    """The logits of `batch()` on one device."""
    return score(params_of(cfg), *batch(), cfg)


def on_mesh(mesh: ModelMesh):
    """`params_of(mesh.cfg)` and `batch()` on the mesh."""
    placed = jax.device_put(params_of(mesh.cfg), mesh.param_shardings())
    return placed, [jax.device_put(x, mesh.row_sharding) for x in batch()]


@pytest.mark.parametrize(
    ("cfg", "tensor"),
    [(TIED, 1), (TIED, 2), (TIED, 4), (TIED, 8), (BIASED, 8)],
    ids=["tied-1", "tied-2", "tied-4", "tied-8", "biased-8"],
)
def test_tensor_parallelism_up_to_and_above_the_kv_heads(cfg, tensor):
    mesh = ModelMesh.of_sizes(cfg, replicas=8 // tensor, tensor=tensor)
    placed, inputs = on_mesh(mesh)
    compiled = score.lower(placed, *inputs, cfg).compile()
    np.testing.assert_allclose(compiled(placed, *inputs), expected(cfg), rtol=0, atol=1e-4)
    # two a layer, which are in the scanned body once, and one for the split embedding
    found = collectives(compiled)
    hidden = f"f32[{tensor},24,64]"  # 8 rows over 8 / tensor replicas
    assert found["all-reduce"] == ([hidden] * 3 if tensor > 1 else [])
    assert not any(found[kind] for kind in COLLECTIVES if kind != "all-reduce")
    kv_heads = placed["layers"]["k_proj"]["kernel"].addressable_shards[0].data.shape[1]
    assert kv_heads == max(1, cfg.num_kv_heads // tensor)


def test_with_an_adapter_and_its_shardings():
    mesh = ModelMesh.of_phase(load_mesh("cpu-8").train, BIASED)
    placed, inputs = on_mesh(mesh)
    adapter = init_adapter(BIASED, LORA, jax.random.key(3))
    adapter = jax.tree.map(lambda x: x + 0.05, adapter)  # b starts at zero
    shardings = mesh.adapter_shardings(LORA)
    own = jax.device_put(adapter, shardings)
    actual = score(placed, *inputs, BIASED, own)
    plain = score(params_of(BIASED), *batch(), BIASED, adapter)
    np.testing.assert_allclose(actual, plain, rtol=0, atol=1e-4)
    assert np.abs(plain - expected(BIASED)).max() > 0.1
    q_proj, o_proj = shardings["layers"]["q_proj"], shardings["layers"]["o_proj"]
    heads = ("kv", "group")
    assert q_proj["a"].spec == PartitionSpec(None, None, "fsdp")
    assert q_proj["b"].spec == PartitionSpec(None, heads, None, None)
    assert o_proj["a"].spec == PartitionSpec(None, None, heads, None)
    assert o_proj["b"].spec == PartitionSpec(None, "fsdp", None)


def test_the_optimisers_moments_lie_as_what_they_belong_to():
    mesh = ModelMesh.of_phase(load_mesh("cpu-8").train, TIED)
    shardings = mesh.adapter_shardings(LORA)
    adapter = init_adapter(TIED, LORA, jax.random.key(0))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = mesh.optimizer_shardings(optimizer, adapter, shardings)
    adam = state[1][0]
    assert adam.mu == adam.nu == shardings
    assert adam.count == mesh.replicated
    jax.device_put(optimizer.init(adapter), state)  # the same structure


def test_layers_as_a_tuple_lie_like_the_stacked_ones():
    mesh = ModelMesh.of_phase(load_mesh("cpu-8").generate, TIED)
    shardings = mesh.param_shardings("unstacked")
    jax.device_put(unstack_layers(params_of(TIED)), shardings)  # the same structure
    stacked = mesh.param_shardings()
    one = shardings["layers"][1]["q_proj"]["kernel"].spec
    assert PartitionSpec(None, *one) == stacked["layers"]["q_proj"]["kernel"].spec
    with pytest.raises(ConfigError, match="expected stacked or unstacked"):
        mesh.param_shardings("flat")


def test_checkpoints_load_onto_the_mesh(tmp_path):
    save_tiny("llama-bias", tmp_path, vocab_size=96)
    cfg = load_config(tmp_path)
    mesh = ModelMesh.of_phase(load_mesh("cpu-8").train, cfg)
    shardings = mesh.param_shardings()
    loaded = load_params(tmp_path, cfg, jnp.float32, shardings=shardings)
    assert jax.tree.map(lambda x: x.sharding, loaded) == shardings
    plain = load_params(tmp_path, cfg, jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, loaded, plain)


def test_what_does_not_divide_is_an_error_before_anything_is_placed():
    generate, cfg = load_mesh("cpu-8").generate, dataclasses.replace(TIED, vocab_size=97)
    with pytest.raises(ConfigError, match="vocab 97 does not divide over kv 2 x group 2 = 4"):
        ModelMesh.of_phase(generate, cfg)
    with pytest.raises(ConfigError, match="lora_rank 5 does not divide over tensor 4 = 4"):
        rules = generate.rules | {"lora_rank": ("tensor",), "heads": (), "kv_heads": ()}
        mesh = ModelMesh.of_phase(Phase(generate.axes, {}, rules | {"mlp": (), "vocab": ()}), TIED)
        mesh.adapter_shardings(LoraConfig(r=5))
    with pytest.raises(ConfigError, match="kv 2 x group 8 = 16 needs more than the 8 devices"):
        ModelMesh.of_phase(phase({"kv": 2, "group": 8}), dataclasses.replace(TIED, num_heads=16))


def test_with_the_hidden_states_held_to_their_rows_fsdp_gathers_weights_not_activations():
    mesh = ModelMesh.of_phase(load_mesh("v5e-8").train, TIED)
    placed, (_, positions, segments) = on_mesh(mesh)
    layer = jax.tree.map(lambda x: x[0], placed["layers"])
    rows = mesh.row_sharding  # every axis behind the first is whole
    x = jax.device_put(jnp.ones((8, 24, 64), jnp.float32), rows)

    def run(layer, x, positions, segments):
        out = block(
            layer,
            TIED,
            x,
            rope_tables(TIED, positions),
            lambda q, k, v: causal_attention(q, k, v, segments),
        )
        return jax.lax.with_sharding_constraint(out, rows)

    found = collectives(jax.jit(run).lower(layer, x, positions, segments).compile())
    assert set(found["all-reduce"]) == {"f32[2,24,64]"}  # 8 rows over 4 devices
    assert len(found["all-reduce"]) == 2
    assert len(found["all-gather"]) == 7  # the seven kernels
    assert not any("24" in re.findall(r"\d+", shape) for shape in found["all-gather"])


def test_replicas_are_meshes_of_their_own():
    mesh = ModelMesh.of_phase(load_mesh("cpu-8").generate, TIED)
    replicas = mesh.replicas()
    assert [dict(r.mesh.shape) for r in replicas] == [{"replica": 1, "kv": 2, "group": 2}] * 2
    assert [r.phase.axes for r in replicas] == [dict(r.mesh.shape) for r in replicas]
    assert (mesh.num_shards, [r.num_shards for r in replicas]) == (2, [1, 1])
    devices = [set(r.mesh.devices.flat) for r in replicas]
    assert devices[0] | devices[1] == set(jax.devices())
    assert not devices[0] & devices[1]


def test_replicas_without_any_other_axis_are_single_devices():
    rules = dict.fromkeys(phase().rules, ()) | {"batch": ("replica",)}
    replicas = ModelMesh.of_phase(Phase({"replica": 8}, {}, rules), TIED).replicas()
    assert [dict(r.mesh.shape) for r in replicas] == [{"replica": 1}] * 8
