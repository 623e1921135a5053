"""The log-probability of a token in the distribution that it was really drawn from."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.sampling.kit import GREEDY, RANDOM, requests, run
from tests.support import Oracle, tiny_config
from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import init_params
from thinksafe_jax.sampling import Drawn, Engine
from thinksafe_jax.sampling.next_token import sample
from thinksafe_jax.sampling.sampling_options import Options

pytestmark = pytest.mark.slow

torch = Oracle("torch")

# (temperature, top-k, top-p, min-p) of every way to draw: candidates, everything, wide
OPTIONS = [
    (0.6, 20, 0.95, 0.0),  # Qwen3
    (0.6, 0, 0.95, 0.0),  # R1-Distill
    (1.0, 0, 1.0, 0.0),  # the model itself
    (0.7, 0, 1.0, 0.0),  # GRPO
    (0.7, 5, 1.0, 0.0),
    (1.0, 0, 1.0, 0.2),
    (1.3, 0, 0.99, 0.0),
    (0.9, 100, 0.9, 0.05),  # more than the candidates hold
    (1.0, 300, 1.0, 0.0),
    (0.0, 0, 1.0, 0.0),  # greedy
]
EACH = 6  # rows of each


def batch_of(vocabulary):
    """Logits `[B, V]`, from peaked to flat, and the options of each row."""
    rng = np.random.default_rng(vocabulary)
    scale = np.geomspace(0.05, 5, EACH).astype(np.float32)
    logits = rng.normal(size=(len(OPTIONS), EACH, vocabulary)).astype(np.float32)
    logits = (scale[:, None] * logits).reshape(-1, vocabulary)
    columns = zip(*(option for option in OPTIONS for _ in range(EACH)), strict=True)
    dtypes = (np.float32, np.int32, np.float32, np.float32)
    return jnp.asarray(logits), Options(*map(np.asarray, columns, dtypes))


def transformers_logprobs(logits, temperature, top_k, top_p, min_p):
    """log_softmax of the scores that transformers would draw from."""
    from transformers import generation

    scores = torch.tensor(np.asarray(logits))[None].double()
    if temperature == 0:
        return np.where(np.arange(scores.shape[1]) == scores.argmax().item(), 0.0, -np.inf)
    warpers = [generation.TemperatureLogitsWarper(temperature)]
    if top_k:
        warpers.append(generation.TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(generation.TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(generation.MinPLogitsWarper(min_p))
    for warper in warpers:
        scores = warper(None, scores)
    return torch.log_softmax(scores[0], dim=-1).numpy()


scored = jax.jit(lambda *a: sample(*a, sampling_logprobs=True))


@pytest.mark.parametrize("vocabulary", [40, 1000])
def test_they_are_those_of_what_temperature_and_filters_leave(vocabulary):
    """As transformers' own processors have it, in float64; and no token is another one."""
    logits, options = batch_of(vocabulary)
    keys = jax.random.split(jax.random.key(2), len(logits))
    tokens, scores = scored(logits, keys, options)
    plain, logprobs = jax.jit(sample)(logits, keys, options)
    np.testing.assert_array_equal(tokens, plain)
    np.testing.assert_array_equal(scores[:, 0], logprobs)
    for row, token in enumerate(tokens.tolist()):
        expected = transformers_logprobs(logits[row], *OPTIONS[row // EACH])
        assert scores[row, 1] == pytest.approx(expected[token], abs=2e-5), OPTIONS[row // EACH]


def test_a_vocabulary_over_four_devices_gives_the_same():
    logits, options = batch_of(1000)
    keys = jax.random.split(jax.random.key(2), len(logits))
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    split = jax.shard_map(
        lambda *a: sample(*a, ("x",), sampling_logprobs=True),
        mesh=mesh, in_specs=(P(None, "x"), P(), P()), out_specs=(P(), P()), check_vma=False,
    )  # fmt: skip
    tokens, scores = jax.jit(split)(logits, keys, options)
    alone, expected = scored(logits, keys, options)
    np.testing.assert_array_equal(tokens, alone)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


SHAPE = EngineConfig(slots=4, window=4, page_size=16, pool_tokens=2048, max_length=256)


def test_completions_carry_them_with_the_end_of_sequence_token():
    cfg = tiny_config(vocab_size=98)
    params = init_params(cfg, jax.random.key(0), scale=0.2)
    ends = tuple(range(90, 98))
    filtered = replace(RANDOM, temperature=1.0, top_k=5)
    whole = SamplingConfig(1.0, 1.0, 0, 0.0, 12)
    asked = [
        replace(request, sampling=option)
        for option, request in zip([filtered, whole, GREEDY] * 4, requests(12), strict=True)
    ]
    engine = Engine(cfg, params, SHAPE, eos_ids=ends, sampling_logprobs=True)
    done = run(engine, asked)
    plain = run(Engine(cfg, params, SHAPE, eos_ids=ends), asked)
    assert {i: replace(c, drawn=None) for i, c in done.items()} == plain
    assert {"stop", "length"} <= {c.finish_reason for c in done.values()}
    for request in asked:
        completion, drawn = done[request.id], done[request.id].drawn
        end = [drawn.token_ids[-1]] if completion.finish_reason == "stop" else []
        assert drawn.token_ids == [*completion.token_ids, *end] and set(end) <= set(ends)
        assert drawn.logprobs[: len(completion.logprobs)] == completion.logprobs
        assert len(drawn.logprobs) == len(drawn.sampling_logprobs) == len(drawn.token_ids)
        stored = Drawn(**json.loads(json.dumps(drawn.as_json())))
        for name in ("token_ids", "logprobs", "sampling_logprobs"):
            wanted, kept = (np.asarray(getattr(d, name), np.float32) for d in (drawn, stored))
            np.testing.assert_array_equal(wanted, kept)
        if request.sampling is GREEDY:
            assert set(drawn.sampling_logprobs) == {0.0}
        elif request.sampling is whole:
            np.testing.assert_allclose(drawn.sampling_logprobs, drawn.logprobs, atol=1e-6)
        else:
            assert np.all(np.array(drawn.sampling_logprobs) > drawn.logprobs)
