"""Tensor parallelism and replicas: the same text, and nothing on the wire but what must be."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.sampling.test_engine import RANDOM, requests, run
from tests.support import save_tiny
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import load_config
from thinksafe_jax.parallel import Strategy, build_mesh, param_shardings
from thinksafe_jax.sampling import Engine, Layout
from thinksafe_jax.sampling.programs import decode
from thinksafe_jax.weights import load_params

CONFIG = EngineConfig(slots=4, window=4, page_size=16, pool_tokens=2048, max_length=256)


def strategy(kv: int, group: int) -> Strategy:
    tensor = ("kv", "group")
    rules = {"heads": tensor, "kv_heads": ("kv",), "vocab": tensor, "mlp": tensor}
    names = ("batch", "sequence", "layers", "embed", "head_dim", "norm", "lora_rank")
    return Strategy({"kv": kv, "group": group}, {**dict.fromkeys(names, ()), **rules})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    shape = {"num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 128}
    save_tiny("qwen3", folder, **shape)
    return folder


def engine(folder, kv=1, group=1):
    cfg, plan = load_config(folder), strategy(kv, group)
    mesh = build_mesh(plan, jax.devices()[: kv * group])
    params = load_params(folder, cfg, jnp.float32, param_shardings(cfg, mesh, plan.rules))
    return Engine(cfg, params, CONFIG, (0,), layout=Layout.of(mesh, plan.rules))


@pytest.mark.parametrize(("kv", "group"), [(2, 1), (2, 2), (2, 4)], ids=["tp2", "tp4", "tp8"])
def test_tensor_parallel_text_is_the_same(folder, kv, group):
    """Also above the number of KV heads (2), which are then held by several devices."""
    flat = SamplingConfig(1.0, 1.0, 0, 0.0, 20)  # draws from the whole vocabulary
    batch = requests(8) + [type(r)("flat" + r.id, r.prompt_ids, flat) for r in requests(4)]
    one, several = run(engine(folder), batch), run(engine(folder, kv, group), batch)
    assert {i: c.token_ids for i, c in one.items()} == {i: c.token_ids for i, c in several.items()}
    for name, done in one.items():
        np.testing.assert_allclose(done.logprobs, several[name].logprobs, atol=1e-3)


def test_decode_sends_two_all_reduces_a_layer_and_the_candidates(folder):
    """No gather of weights, logits or pools; the embedding lookup adds one reduce a step."""
    sampler = engine(folder, 2, 2)
    device, cfg = sampler._device, sampler.cfg
    table = device.layout.put(np.zeros((4, 16), np.int32))
    text = (
        decode.lower(
            device.params, device._pools, device._slots, table, cfg=cfg, steps=4, eos_ids=(0,),
            layout=device.layout,
        )
        .compile()
        .as_text()
    )  # fmt: skip
    hidden = re.findall(r"(\w+)\[4,(?:1,)?48\]\S* all-reduce", text)
    assert len(hidden) == 2 * cfg.num_layers + 1
    gathered = re.findall(r"\[([\d,]+)\]\S* all-gather", text)
    assert gathered
    largest = max(np.prod([int(n) for n in shape.split(",")]) for shape in gathered)
    assert largest <= 4 * 64 * 4  # rows x candidates x devices


def test_sampling_on_a_mesh_does_not_recompile_or_copy_the_pool(folder):
    sampler = engine(folder, 2, 1)
    run(sampler, requests(6))
    before = decode._cache_size()
    run(sampler, requests(10, RANDOM))
    assert decode._cache_size() == before
