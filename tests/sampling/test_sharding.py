"""Tensor parallelism and replicas: the same text, and nothing on the wire but what must be."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.sampling.kit import RANDOM, requests, run
from tests.support import save_tiny
from thinksafe_jax.compilations import compilations_so_far
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import load_config
from thinksafe_jax.sampling import Engine, decode
from thinksafe_jax.sharding import ModelMesh, load_mesh
from thinksafe_jax.weights import load_params

pytestmark = pytest.mark.slow

CONFIG = EngineConfig(slots=4, window=4, page_size=16, pool_tokens=2048, max_length=256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    shape = {"num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 128}
    save_tiny("qwen3", folder, num_hidden_layers=2, **shape)
    return folder


def engine(folder, replicas=1, tensor=1, how="apart", **changes):
    cfg = load_config(folder)
    mesh = None
    if replicas * tensor > 1:
        mesh = ModelMesh.of_sizes(cfg, replicas=replicas, tensor=tensor)
    config = dataclasses.replace(CONFIG, replicas=how, **changes)
    return Engine(cfg, load_params(folder, cfg, jnp.float32), config, mesh=mesh, eos_ids=(0,))


def decode_program(sampler) -> str:
    device = sampler._devices[0]
    table = device.layout.put(sampler._allocator(device).table, device.layout.rows)
    lowered = decode.lower(device.params, device.cache, device.slots, table, spec=device.spec)
    return lowered.compile().as_text()


@pytest.mark.parametrize("tensor", [2, 4, 8])
def test_tensor_parallel_text_is_the_same(folder, tensor):
    """Also above the number of KV heads (2), which are then held by several devices."""
    flat = SamplingConfig(1.0, 1.0, 0, 0.0, 20)  # draws from the whole vocabulary
    batch = requests(8) + [type(r)("flat" + r.id, r.prompt_ids, flat) for r in requests(4)]
    one, several = run(engine(folder), batch), run(engine(folder, tensor=tensor), batch)
    assert {i: c.token_ids for i, c in one.items()} == {i: c.token_ids for i, c in several.items()}
    for name, done in one.items():
        np.testing.assert_allclose(done.logprobs, several[name].logprobs, atol=1e-3)


@pytest.mark.parametrize("how", ["apart", "together"])
@pytest.mark.parametrize(("replicas", "tensor"), [(4, 1), (2, 2)])
def test_replicas_share_the_queue_and_change_no_text(folder, how, replicas, tensor):
    """Independent engines, or one program whose slots and pages are cut over the replicas."""
    batch = requests(17)
    sampler = engine(folder, replicas, tensor, how=how)
    assert len(sampler._devices) == (replicas if how == "apart" else 1)
    base, several = run(engine(folder), batch), run(sampler, batch)
    assert {i: c.token_ids for i, c in base.items()} == {i: c.token_ids for i, c in several.items()}
    assert sampler.stats.completions == len(batch)


def test_replicas_in_one_program_preempt_within_their_own_pages(folder):
    batch = requests(24)
    sampler = engine(folder, replicas=2, how="together", pool_tokens=160)
    few = run(sampler, batch)
    assert sampler.stats.preemptions > 0
    plenty = run(engine(folder), batch)
    assert {i: c.token_ids for i, c in few.items()} == {i: c.token_ids for i, c in plenty.items()}


def test_decode_sends_two_all_reduces_a_layer_and_the_candidates(folder):
    """No gather of weights, logits or pools; the embedding lookup adds one reduce a step."""
    sampler = engine(folder, tensor=4)
    text = decode_program(sampler)
    hidden = re.findall(r"(\w+)\[4,(?:1,)?48\]\S* all-reduce", text)
    assert len(hidden) == 2 * sampler.cfg.num_layers + 1
    gathered = re.findall(r"\[([\d,]+)\]\S* all-gather", text)
    assert gathered
    largest = max(np.prod([int(n) for n in shape.split(",")]) for shape in gathered)
    assert largest <= 4 * 64 * 4  # rows x candidates x devices


def test_replicas_in_one_program_speak_of_nothing(folder):
    """Page numbers are a shard's own: global ones would gather the whole pool at every layer."""
    text = decode_program(engine(folder, replicas=4, how="together"))
    assert not re.findall(r"(?:all-reduce|all-gather|all-to-all|collective-permute)\(", text)


def test_sampling_on_a_mesh_does_not_recompile(folder):
    sampler = engine(folder, 2, 2, how="together")
    sampler.warm_up()
    run(sampler, requests(10, RANDOM))
    assert sampler.stats.compiles == 0 < compilations_so_far().count


def test_a_mesh_of_sizes_is_refused_where_it_cannot_be(folder):
    with pytest.raises(ConfigError, match="needs more than the 8 devices"):
        engine(folder, replicas=3, tensor=4)
    with pytest.raises(ConfigError, match="heads 8 does not divide over kv 1 x group 3"):
        engine(folder, tensor=3)


def test_replicas_that_are_neither_apart_nor_together_are_refused(folder):
    with pytest.raises(
        ConfigError, match=r"engine\.replicas: is 'both'; expected one of apart, together"
    ):
        engine(folder, how="both")


def test_a_mesh_file_decides_where_everything_lies(folder):
    cfg = load_config(folder)
    params, mesh = (
        load_params(folder, cfg, jnp.float32),
        ModelMesh.for_generation(load_mesh("cpu-8"), cfg),
    )
    sampler = Engine(cfg, params, CONFIG, mesh=mesh, eos_ids=(0,))
    assert len(sampler._devices) == 2
    batch = requests(6)
    base, several = run(engine(folder), batch), run(sampler, batch)
    assert {i: c.token_ids for i, c in base.items()} == {i: c.token_ids for i, c in several.items()}
