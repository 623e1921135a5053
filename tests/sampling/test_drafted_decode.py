"""Decoding with drafts gives the text of plain decoding, token for token."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.sampling.kit import GREEDY, RANDOM, engine, requests, run
from tests.support import save_tiny
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import load_config
from thinksafe_jax.sampling import Engine, Request, drafting
from thinksafe_jax.sharding import ModelMesh
from thinksafe_jax.weights import load_params

pytestmark = pytest.mark.slow

# every way to draw: greedy, filtered, top-p alone, min-p alone, wide, from the whole vocabulary;
# cool enough that some drafts are right
WAYS = [
    replace(GREEDY, max_new_tokens=60),
    SamplingConfig(0.3, 0.95, 20, 0.0, 50),
    SamplingConfig(0.3, 0.9, 0, 0.0, 40),
    SamplingConfig(0.3, 1.0, 0, 0.05, 33),
    SamplingConfig(1.5, 0.999, 0, 0.0, 30),
    SamplingConfig(0.3, 1.0, 0, 0.0, 57),
]


def of_every_way(count=12):
    """Requests that draw in every way; rows of one kind see each other's texts."""
    batch = requests(count)
    return [replace(r, sampling=WAYS[n % len(WAYS)], kind="k") for n, r in enumerate(batch)]


def tokens(completions):
    return {key: (done.token_ids, done.finish_reason) for key, done in completions.items()}


@pytest.fixture(scope="module")
def plain(model):
    return run(engine(model, eos=(7, 30)), of_every_way())


@pytest.mark.parametrize(
    "shape",
    [{}, {"draft_tokens": 1, "window": 7}, {"pool_tokens": 176}],
    ids=["three", "one", "with preemptions"],
)
def test_the_text_is_that_of_plain_decoding(model, plain, shape):
    sampler = engine(model, eos=(7, 30), draft="always", **shape)
    drafted = run(sampler, of_every_way())
    assert tokens(drafted) == tokens(plain)
    for key, done in drafted.items():
        np.testing.assert_allclose(done.logprobs, plain[key].logprobs, atol=1e-4)
    stats = sampler.stats
    assert stats.drafted_windows == stats.windows
    assert stats.accepted > 30 and stats.tokens_per_pass > 1.1
    assert stats.drafted_passes + stats.accepted == stats.tokens
    assert not shape.get("pool_tokens") or stats.preemptions > 0


@pytest.fixture(scope="module")
def even_model(tmp_path_factory):
    """A model whose heads and words divide over devices, and its plain completions."""
    folder = tmp_path_factory.mktemp("even")
    save_tiny(
        "qwen3",
        folder,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=128,
    )
    cfg = load_config(folder)
    model = cfg, load_params(folder, cfg, jnp.float32)
    return model, run(engine(model, eos=(7, 30)), of_every_way())


@pytest.mark.parametrize("how", ["apart", "together", "tensor"])
def test_the_text_is_the_same_on_a_mesh(even_model, how):
    (cfg, params), plain = even_model
    sizes = {"tensor": 2} if how == "tensor" else {"replicas": 2}
    config = EngineConfig(
        slots=4, window=4, page_size=16, pool_tokens=2048, max_length=256, draft="always",
        replicas="together" if how == "together" else "apart",
    )  # fmt: skip
    mesh = ModelMesh.of_sizes(cfg, **sizes)
    both = how == "apart"
    sampler = Engine(cfg, params, config, mesh=mesh, eos_ids=(7, 30), sampling_logprobs=both)
    drafted = run(sampler, of_every_way())
    assert tokens(drafted) == tokens(plain)
    assert sampler.stats.accepted > 30
    for done in drafted.values() if both else ():
        assert done.drawn is not None and done.drawn.logprobs[: len(done.logprobs)] == done.logprobs
        count = len(done.token_ids) + (done.finish_reason == "stop")
        assert len(done.drawn.token_ids) == len(done.drawn.sampling_logprobs) == count


def test_auto_counts_first_and_then_drafts_where_it_is_worth_it(model, monkeypatch):
    """A greedy model of random weights repeats itself; a hot one is nowhere near its drafts."""
    monkeypatch.setitem(drafting._ROWS_PER_READ, "cpu", 240)  # rows cost as on a TPU
    sampler = engine(model, eos=(), draft="auto", window=8, slots=2)
    sampler.warm_up(64)
    cool = [Request(f"c{n}", [5 + n], replace(GREEDY, max_new_tokens=150)) for n in range(3)]
    plain = engine(model, eos=(), window=8, slots=2)
    assert tokens(run(sampler, cool)) == tokens(run(plain, cool))
    assert 0 < sampler.stats.drafted_windows < sampler.stats.windows
    assert sampler.stats.compiles == 0
    hot = [replace(r, sampling=replace(RANDOM, temperature=2.0, top_k=0, top_p=1.0)) for r in cool]
    assert tokens(run(sampler, hot)) == tokens(run(plain, hot))
    assert sampler.stats.drafted_windows == 0
    assert sampler.stats.replayed_tokens == sampler.stats.tokens
    assert sampler.stats.replayed_passes > 0.8 * sampler.stats.tokens
