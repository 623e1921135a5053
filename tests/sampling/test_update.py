"""New weights in a running sampler: what a fresh one would sample, and nothing compiled."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from tests.sampling.kit import engine, requests, run
from thinksafe_jax.config import EngineConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import LoraConfig, init_adapter, merge_adapter, unstack_layers
from thinksafe_jax.sampling import Engine, heads_first
from thinksafe_jax.sharding import ModelMesh

pytestmark = pytest.mark.slow

SHAPE = EngineConfig(slots=4, window=4, page_size=16, pool_tokens=2048, max_length=256)
LORA = LoraConfig(r=4, alpha=64.0)


@pytest.fixture(scope="module")
def tuned(model):
    """The model's weights with an adapter that changes what it says."""
    cfg, params, _ = model
    adapter = init_adapter(cfg, LORA, jax.random.key(1))
    adapter = jax.tree.map(lambda x: x + 0.2, adapter)
    return merge_adapter(params, adapter, LORA)


def shapes(cfg):
    """One device, replicas apart, replicas in one program."""
    mesh = ModelMesh.of_sizes(cfg, replicas=2)
    together = replace(SHAPE, replicas="together")
    return {"one device": (SHAPE, None), "apart": (SHAPE, mesh), "together": (together, mesh)}


@pytest.mark.parametrize("how", ["one device", "apart", "together"])
def test_tokens_after_an_update_are_those_of_a_fresh_engine(model, tuned, how):
    cfg, params, _ = model
    config, mesh = shapes(cfg)[how]
    sampler = Engine(cfg, params, config, mesh=mesh, eos_ids=(0,))
    sampler.warm_up(64)
    batch = requests(9)
    before = run(sampler, batch)
    # only what the adapter changes, stacked; and the whole tree, layers apart
    kernels = {name: {"kernel": tuned["layers"][name]["kernel"]} for name in LORA.targets}
    sampler.update({"layers": kernels})
    partly = run(sampler, batch)
    compiled = sampler.stats.compiles
    sampler.update(unstack_layers(tuned))
    wholly = run(sampler, batch)
    assert compiled == sampler.stats.compiles == 0
    fresh = run(Engine(cfg, tuned, config, mesh=mesh, eos_ids=(0,)), batch)
    assert partly == wholly == fresh != before
    sampler.update(params)
    assert run(sampler, batch) == before


def test_kernels_that_are_stored_heads_first_stay_so(model, tuned):
    """As on a TPU; shapes, and so programs and text, are those of the declared order."""
    cfg, params, _ = model
    sampler = Engine(cfg, params, SHAPE, eos_ids=(0,))
    batch = requests(4)
    before, (device,) = run(sampler, batch), sampler._devices
    device.params = heads_first(device.params)
    assert run(sampler, batch) == before
    sampler.update(unstack_layers(tuned))
    sampler.update(params)
    kernel = device.params["layers"][0]["o_proj"]["kernel"]
    assert kernel.format.layout.major_to_minor == (1, 0, 2)
    assert run(sampler, batch) == before


def test_weights_of_another_model_are_refused_and_change_nothing(model):
    params = model[1]
    sampler = engine(model)
    base = run(sampler, requests(3))
    norm = params["final_norm"]
    with pytest.raises(InputError, match="the model has no parameter lm_heads"):
        sampler.update({"final_norm": 0 * norm, "lm_heads": norm})
    with pytest.raises(
        InputError, match=r"final_norm is float16 \[48\], the sampler holds float32"
    ):
        sampler.update({"final_norm": norm.astype(jnp.float16)})
    kernel = params["layers"]["q_proj"]["kernel"]
    with pytest.raises(
        InputError, match=r"layers\.0\.q_proj\.kernel is .*\[6, 16, 47\], the sampler"
    ):
        sampler.update({"layers": {"q_proj": {"kernel": kernel[..., :-1]}}})
    with pytest.raises(InputError, match="layers is not built as the parameters are"):
        sampler.update({"layers": {"q_proj": {"kernel": kernel[:-1]}}})
    assert run(sampler, requests(3)) == base


def test_a_call_that_has_not_ended_is_over(model):
    """Its rows would be of two models, or their slots of two calls."""
    params = model[1]
    sampler = engine(model)
    others = lambda: sampler.update(params), lambda: run(sampler, requests(3)), sampler.warm_up
    for take_over in others:
        unfinished = sampler.generate(requests(8))
        next(unfinished)
        take_over()
        with pytest.raises(InputError, match="a later generate or update has taken the engine"):
            list(unfinished)
    assert run(sampler, requests(4)) == run(engine(model), requests(4))
