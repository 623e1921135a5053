"""An adapter beside the weights: the trainer's own numbers, exchanged without a compilation."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.sampling.kit import RANDOM, requests, run
from tests.support import TINY, run_processes, save_tiny, tiny_config
from thinksafe_jax.compilations import compilations_so_far
from thinksafe_jax.config import EngineConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import (
    LoraConfig,
    forward,
    init_adapter,
    init_params,
    load_config,
    logits,
    merge_adapter,
    unstack_layers,
)
from thinksafe_jax.sampling import Engine
from thinksafe_jax.sharding import ModelMesh
from thinksafe_jax.weights import load_params

pytestmark = pytest.mark.slow

SHAPE = EngineConfig(slots=4, window=4, page_size=16, pool_tokens=2048, max_length=256)
LORA = LoraConfig(r=3, alpha=2.0)
ALL_SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHORT = replace(RANDOM, max_new_tokens=12)
LONGEST = 80  # tokens of a prompt and its completion


def tiny_model():
    """Facts and parameters of a model whose sizes divide over two devices."""
    cfg = tiny_config(vocab_size=98)
    return cfg, init_params(cfg, jax.random.key(0), scale=0.2)


tiny = pytest.fixture(scope="module")(tiny_model)


def trained(cfg, lora=LORA, size=0.1):
    """An adapter that says something: no B is zero."""
    adapter = init_adapter(cfg, lora, jax.random.key(1))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: x + size * rng.normal(size=x.shape).astype(np.float32), adapter)


def largest_gap(cfg, params, adapter, lora, asked, completions):
    """Between the log-probabilities of the completions and those of the trainer's forward pass."""
    ids = np.zeros((len(asked), LONGEST), np.int32)
    segments, sampled = np.zeros_like(ids), np.full(ids.shape, np.nan, np.float32)
    for n, request in enumerate(asked):
        done, start = completions[request.id], len(request.prompt_ids)
        end = start + len(done.token_ids)
        ids[n, :end], segments[n, :end] = [*request.prompt_ids, *done.token_ids], 1
        sampled[n, start - 1 : end - 1] = done.logprobs  # position t predicts token t + 1
    positions = np.broadcast_to(np.arange(LONGEST, dtype=np.int32), ids.shape)

    @jax.jit
    def scores(params, adapter):
        hidden = forward(params, cfg, ids, positions, segments, adapter=adapter, lora=lora)
        log_p = jax.nn.log_softmax(logits(params, cfg, hidden), axis=-1)
        return jnp.take_along_axis(log_p, np.roll(ids, -1, axis=1)[..., None], axis=-1)[..., 0]

    return np.nanmax(np.abs(scores(params, adapter) - sampled))


@pytest.mark.parametrize("family", TINY)
def test_every_token_has_the_trainers_log_probability(tmp_path, family):
    """With any of the projections; and the trainer tells an adapter of a step ago from its own."""
    save_tiny(family, tmp_path, num_hidden_layers=2)
    cfg = load_config(tmp_path)
    params = load_params(tmp_path, cfg, jnp.float32)
    targets = ALL_SEVEN if family in ("qwen3", "qwen2", "llama-bias") else ("k_proj", "down_proj")
    lora = replace(LORA, targets=targets)
    sampler = Engine(cfg, params, SHAPE, eos_ids=(0,), lora=lora)
    asked, adapter = requests(5, SHORT), trained(cfg, lora)
    sampler.update_adapter(adapter)
    completions = run(sampler, asked)
    assert largest_gap(cfg, params, adapter, lora, asked, completions) <= 1e-4
    assert largest_gap(cfg, params, trained(cfg, lora, 0.101), lora, asked, completions) > 1e-4


def shapes(cfg):
    """(engine's shape, its mesh)."""
    together = replace(SHAPE, replicas="together")
    return {
        "one device": (SHAPE, None),
        "apart": (SHAPE, ModelMesh.of_sizes(cfg, replicas=2)),
        "together": (together, ModelMesh.of_sizes(cfg, replicas=2)),
        "tensor": (together, ModelMesh.of_sizes(cfg, replicas=2, tensor=2)),
    }


@pytest.mark.parametrize("how", ["one device", "apart", "together", "tensor"])
def test_an_exchanged_adapter_is_the_merged_model_and_compiles_nothing(tiny, how):
    cfg, params = tiny
    config, mesh = shapes(cfg)[how]
    lora = replace(LORA, targets=ALL_SEVEN) if how == "tensor" else LORA
    adapter, asked = trained(cfg, lora), requests(9, SHORT)
    bare = run(Engine(cfg, params, config, mesh=mesh, eos_ids=(0,)), asked)
    sampler = Engine(cfg, params, config, mesh=mesh, eos_ids=(0,), lora=lora)
    sampler.warm_up(64)
    other, host = trained(cfg, lora, 0.2), jax.device_get(adapter)
    assert run(sampler, asked) == bare  # B is zero: the base itself, to the last bit
    sampler.update_adapter(adapter)
    tuned = run(sampler, asked)
    assert sampler.stats.compiles == 0
    compiled = compilations_so_far().count  # how arrays travel may be compiled the first time
    sampler.update_adapter(other)  # another step's
    assert run(sampler, asked) != tuned
    sampler.update_adapter(host)
    assert run(sampler, asked) == tuned != bare
    assert compilations_so_far().count == compiled
    assert largest_gap(cfg, params, adapter, lora, asked, tuned) <= 1e-4
    merged = merge_adapter(params, adapter, lora)
    of_merged = run(Engine(cfg, merged, config, mesh=mesh, eos_ids=(0,)), asked)
    assert {i: c.token_ids for i, c in tuned.items()} == {
        i: c.token_ids for i, c in of_merged.items()
    }
    sampler.update_adapter(None)
    assert run(sampler, asked) == bare


def test_tokens_do_not_depend_on_the_engines_shape(tiny):
    cfg, params = tiny
    asked, shapes = requests(9, SHORT), (SHAPE, replace(SHAPE, slots=7, window=3))
    samplers = [Engine(cfg, params, shape, eos_ids=(0,), lora=LORA) for shape in shapes]
    for sampler in samplers:
        sampler.update_adapter(trained(cfg))
    assert run(samplers[0], asked) == run(samplers[1], asked)


def test_the_weights_are_the_trainers_own_buffers(tiny):
    cfg, params = tiny
    base = unstack_layers(params)
    sampler = Engine(cfg, base, SHAPE, eos_ids=(0,), lora=LORA)
    sampler.update_adapter(trained(cfg))
    pointers = [
        [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]
        for tree in (base, sampler._devices[0].params)
    ]
    assert pointers[0] == pointers[1]


def test_another_adapter_is_refused_and_changes_nothing(tiny):
    cfg, params = tiny
    adapter, asked = trained(cfg), requests(3, SHORT)
    sampler = Engine(cfg, params, SHAPE, eos_ids=(0,), lora=LORA)
    sampler.update_adapter(adapter)
    tuned = run(sampler, asked)
    layers = adapter["layers"]
    with pytest.raises(InputError, match=r"layers\.v_proj\.[ab] is missing; .* of q_proj, v_proj"):
        sampler.update_adapter({"layers": {"q_proj": layers["q_proj"]}})
    with pytest.raises(InputError, match=r"layers\.up_proj\.[ab] is unknown"):
        sampler.update_adapter({"layers": {**layers, "up_proj": layers["q_proj"]}})
    other = trained(cfg, replace(LORA, r=4))
    with pytest.raises(
        InputError, match=r"a is float32 \[2, 4, 64\], this sampler .* \[2, 3, 64\]"
    ):
        sampler.update_adapter(other)
    assert run(sampler, asked) == tuned
    with pytest.raises(InputError, match="no adapter is kept apart; build the engine with lora="):
        Engine(cfg, params, SHAPE, eos_ids=(0,)).update_adapter(adapter)


def test_a_call_that_has_not_ended_is_over(tiny):
    cfg, params = tiny
    sampler = Engine(cfg, params, SHAPE, eos_ids=(0,), lora=LORA)
    unfinished = sampler.generate(requests(8, SHORT))
    next(unfinished)
    sampler.update_adapter(trained(cfg))
    with pytest.raises(InputError, match="a later generate or update has taken the engine"):
        list(unfinished)


_ON_TWO_HOSTS = """
import json
import jax
from tests.sampling import test_adapter as kit
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.training import TrainingMesh
cfg, params = kit.tiny_model()
phase = load_mesh("cpu-8").train.with_axes({"data": 1, "fsdp": 4, "tensor": 1})
mesh = TrainingMesh.of_phase(phase, cfg)
adapter = mesh.put(kit.trained(cfg), mesh.adapter_shardings(kit.LORA))
assert not jax.tree.leaves(adapter)[0].is_fully_addressable
sampler = kit.Engine(cfg, params, kit.SHAPE, eos_ids=(0,), lora=kit.LORA)
sampler.update_adapter(adapter)
done = kit.run(sampler, kit.requests(4, kit.SHORT))
print(json.dumps([[done[i].token_ids, done[i].logprobs] for i in sorted(done)]))
"""


@pytest.mark.hosts
def test_an_adapter_that_is_cut_over_two_hosts_comes_whole_to_each(tiny):
    cfg, params = tiny
    sampler = Engine(cfg, params, SHAPE, eos_ids=(0,), lora=LORA)
    sampler.update_adapter(trained(cfg))
    alone = run(sampler, requests(4, SHORT))
    expected = [[alone[i].token_ids, alone[i].logprobs] for i in sorted(alone)]
    for output in run_processes(_ON_TWO_HOSTS, 2, devices=2):
        assert json.loads(output.splitlines()[-1]) == expected
