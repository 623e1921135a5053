"""Engines and requests for the tests of the sampler."""

import numpy as np

from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.sampling import Engine, Request

GREEDY = SamplingConfig(temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=12)
RANDOM = SamplingConfig(temperature=1.0, top_k=20, top_p=0.95, max_new_tokens=40)


def engine(model, eos=(0,), seed=0, **shape):
    config = {"slots": 4, "window": 4, "page_size": 16, "pool_tokens": 2048, "max_length": 256}
    config = EngineConfig(**{**config, **shape})
    return Engine(model[0], model[1], config, eos_ids=eos, seed=seed)


def requests(count, sampling=RANDOM, longest=60):
    rng = np.random.default_rng(1)
    lengths = [1, 2, 16, 17, 32, 33, *rng.integers(3, longest, count)][:count]
    return [
        Request(f"row-{n}", rng.integers(1, 97, size).tolist(), sampling)
        for n, size in enumerate(lengths)
    ]


def run(engine, requests):
    return {c.id: c for c in engine.generate(requests)}
