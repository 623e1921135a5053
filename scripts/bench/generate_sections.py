"""What each section of generate.py measures; run by it, each in a process of its own."""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from rehearsal import rehearse
from stepper import Stepper, fastest, timed
from workloads import load_model, long_tail, save_model

from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import (
    LoraConfig,
    forward,
    init_adapter,
    logits,
    merge_adapter,
    unstack_layers,
)
from thinksafe_jax.planning.collectives import collectives_of, total
from thinksafe_jax.sampling import Engine, KvCache, Request, decode
from thinksafe_jax.sampling.next_token import sample
from thinksafe_jax.sampling.sampling_options import Options
from thinksafe_jax.sharding import ModelMesh

# a short window: in so small a set the steps after a row's end weigh more than the host
SHAPE_T = EngineConfig(slots=16, window=4, page_size=16, max_length=512)
REPEATS = 3


def workload(name: str, scratch: Path, **changes: int) -> tuple:
    folder = scratch / "-".join([name, *map(str, changes.values())])
    if not folder.exists():
        save_model(name, folder, **changes)
    return load_model(folder)


def tokens_of(engine: Engine, requests: list[Request]) -> dict:
    return {(c.id, c.sample): c.token_ids for c in engine.generate(requests)}


def rate(engine: Engine, requests: list[Request]) -> float:
    """Useful tokens a second."""
    began = time.perf_counter()
    count = sum(len(c.token_ids) for c in engine.generate(requests))
    return count / (time.perf_counter() - began)


def rivals(scratch: Path) -> dict:
    import rivals as transformers

    cfg, params = workload("T", scratch)
    requests = long_tail(64, cfg.vocab_size)
    engine = Engine(cfg, params, SHAPE_T, eos_ids=())
    engine.warm_up(64)
    asked = [
        {"prompt_ids": r.prompt_ids, "max_new_tokens": r.sampling.max_new_tokens} for r in requests
    ]
    (scratch / "requests.json").write_text(json.dumps(asked))
    model = transformers.load(scratch / "T")
    static = {
        (batch, threads): transformers.generate(model, requests, batch, threads)
        for batch in (16, 32, 64)
        for threads in (1, 2)
    }
    threads = max((1, 2), key=lambda n: transformers.continuous(model, requests, n))
    best = max(static, key=lambda key: static[key])
    turns = [
        (
            rate(engine, requests),
            transformers.generate(model, requests, *best),
            transformers.continuous(model, requests, threads),
        )
        for _ in range(REPEATS)
    ]
    ours, generate, continuous = (median(column) for column in zip(*turns, strict=True))
    return {
        "vs_transformers_generate": ours / generate,
        "vs_transformers_continuous": ours / continuous,
        "tokens_per_s": ours,
        "transformers_generate_tokens_per_s": generate,
        "transformers_generate_batch": best[0],
        "transformers_generate_threads": best[1],
        "transformers_continuous_tokens_per_s": continuous,
    }


def floor(scratch: Path) -> dict:
    cfg, params = workload("W", scratch)
    read = [x for name, x in params.items() if name not in ("embed", "layers")]
    read += jax.tree.leaves(params["layers"])
    weight_bytes = sum(x.nbytes for x in read)
    reduce = jax.jit(lambda arrays: [x.sum() for x in arrays])
    out = {}
    for slots in (1, 4, 8):
        config = EngineConfig(slots=slots, window=16, page_size=16, max_length=512)
        engine = Engine(cfg, params, config, eos_ids=())
        live = 128
        stepper = Stepper(engine, live)
        step, sweep = fastest(
            stepper.seconds, lambda: timed(lambda: jax.block_until_ready(reduce(read)))
        )
        bandwidth = weight_bytes / sweep
        kv = slots * live * KvCache.bytes_per_token(cfg, "float32")
        out[f"step_over_floor_b{slots}"] = step / ((weight_bytes + kv) / bandwidth)
        out[f"step_ms_b{slots}"] = 1e3 * step
        out["read_gb_per_s"] = bandwidth / 1e9
    return out


def adapter(scratch: Path) -> dict:
    """A step with the paper's adapter apart over one with it merged; with log p of the draw."""
    cfg, params = workload("W", scratch)
    lora = LoraConfig()
    trained = jax.tree.map(lambda x: x + 0.01, init_adapter(cfg, lora, jax.random.key(0)))
    merged, base = merge_adapter(params, trained, lora), unstack_layers(params)
    out = {}
    for slots in (1, 8):
        shape = EngineConfig(slots=slots, window=16, page_size=16, max_length=512)
        engines = [
            Engine(cfg, merged, shape, eos_ids=()),
            Engine(cfg, base, shape, eos_ids=(), lora=lora),
            Engine(cfg, base, shape, eos_ids=(), lora=lora, sampling_logprobs=True),
        ]
        for engine in engines[1:]:
            engine.update_adapter(trained)
        steppers = [Stepper(engine, 128) for engine in engines]
        inside, beside, scored = fastest(*(s.seconds for s in steppers), times=15)
        merged_work, work, _ = fastest(*(s.processor_seconds for s in steppers), times=15)
        out[f"adapter_over_merged_b{slots}"] = beside / inside
        out[f"adapter_over_merged_processor_b{slots}"] = work / merged_work
        out[f"sampling_logprobs_over_none_b{slots}"] = scored / beside
    out["update_adapter_ms"] = 1e3 * fastest(lambda: timed(lambda: updated(engines[1], trained)))[0]
    return out


def updated(engine: Engine, weights: dict) -> None:
    engine.update_adapter(weights)
    jax.block_until_ready(engine._devices[0].adapter)


def programs(scratch: Path) -> dict:
    cfg, params = workload("W", scratch)
    shape = EngineConfig(slots=4, window=16, page_size=16, pool_tokens=4096)
    steppers = [
        Stepper(Engine(cfg, params, dataclasses.replace(shape, max_length=most), eos_ids=()), 256)
        for most in (16_384, 2_048)
    ]
    long, short = fastest(*(stepper.seconds for stepper in steppers))
    device = steppers[0].device
    compiled = decode.lower(
        device.params, device.cache, device.slots, steppers[0].table, spec=device.spec
    ).compile()
    memory = compiled.memory_analysis()
    cache = device.cache.nbytes
    return {
        "raggedness": long / short,
        "temp_over_cache": memory.temp_size_in_bytes / cache,
        "alias_over_cache": memory.alias_size_in_bytes / cache,
        **sampling(scratch),
    }


def sampling(scratch: Path) -> dict:
    """A step at the vocabulary of Qwen3; the draw alone, on logits that are there already.

    The draw with Qwen3's filters, with none, and with R1's top-p alone: where one row of the batch
    has more than 64 tokens in its nucleus, and where all have.
    """
    cfg, params = workload("W", scratch, vocab_size=151_936)
    slots = 8
    config = EngineConfig(slots=slots, window=16, page_size=16, max_length=512)
    stepper = Stepper(Engine(cfg, params, config, eos_ids=()), 128)
    scores = 3 * jax.random.normal(jax.random.key(0), (slots, cfg.vocab_size), jnp.float32)
    flat = scores / 3
    sharp = flat.at[:, 7].add(40.0)
    keys = jax.random.split(jax.random.key(1), slots)
    draw = jax.jit(sample)

    def seconds(scores: jax.Array, temperature: float, top_k: int, top_p: float):
        options = Options(
            jnp.full(slots, temperature), jnp.full(slots, top_k, jnp.int32),
            jnp.full(slots, top_p), jnp.zeros(slots),
        )  # fmt: skip
        return lambda: timed(lambda: jax.block_until_ready(draw(scores, keys, options)))

    step, filtered, unfiltered, one_wide, all_wide = fastest(
        stepper.seconds,
        seconds(scores, 0.6, 20, 0.95),
        seconds(scores, 1.0, 0, 1.0),
        seconds(sharp.at[0].set(flat[0]), 1.0, 0, 0.95),
        seconds(flat, 1.0, 0, 0.95),
    )
    return {
        "sampling_share": filtered / step,
        "sampling_share_unfiltered": unfiltered / step,
        "sampling_ratio_unfiltered": unfiltered / filtered,
        "sampling_ratio_wide_row": one_wide / filtered,
        "sampling_ratio_wide_rows": all_wide / filtered,
        "sampling_ms": 1e3 * filtered,
    }


def host(scratch: Path) -> dict:
    cfg, params = workload("T", scratch)
    shape = dataclasses.replace(SHAPE_T, window=16)
    engine = Engine(cfg, params, shape, eos_ids=())
    engine.warm_up()
    list(engine.generate(mixed(200, cfg.vocab_size)))
    compiles = engine.stats.compiles
    list(engine.generate(long_tail(64, cfg.vocab_size)))
    stats = engine.stats
    return {
        "compiles_after_warmup": compiles,
        "host_share": 1 - stats.waiting_seconds / stats.seconds,
        "host_us_per_token": 1e6 * (stats.seconds - stats.waiting_seconds) / stats.tokens,
        "padding": stats.padding,
        "occupancy_64_16": stats.occupancy,
    }


def mixed(count: int, vocabulary: int) -> list[Request]:
    """Prompts of any length, options of every kind."""
    rng = np.random.default_rng(3)
    kinds = [(0.0, 1.0, 0), (0.6, 0.95, 20), (1.0, 0.9, 0), (1.3, 1.0, 0)]
    return [
        Request(
            f"mixed-{n}",
            rng.integers(1, vocabulary, rng.integers(1, 300)).tolist(),
            SamplingConfig(*kinds[n % 4], 0.0, int(rng.integers(1, 40))),
        )
        for n in range(count)
    ]


def pool(scratch: Path) -> dict:
    cfg, params = workload("T", scratch)
    requests = long_tail(96, cfg.vocab_size)
    need = 226 + 60
    shape = dataclasses.replace(SHAPE_T, max_length=need)
    whole, part = (
        Engine(
            cfg, params, dataclasses.replace(shape, pool_tokens=int(share * 16 * need)),
            eos_ids=(),
        )
        for share in (1.0, 0.4)
    )  # fmt: skip
    same = tokens_of(whole, requests) == tokens_of(part, requests)
    slow, fast = fastest(
        lambda: 1 / rate(part, requests), lambda: 1 / rate(whole, requests), times=REPEATS
    )
    # lengths of the real histogram, a pool that its mean fills: what the allocator keeps in use
    steady = rehearse(2_000, 128, pool_share=0.22)
    return {
        "throughput_pool_40": fast / slow if same else 0.0,
        "preemptions_pool_40": part.stats.preemptions,
        "pool_use": steady.pool_use,
        "recomputed_share": steady.recomputed_tokens / steady.tokens,
    }


def identical(scratch: Path) -> dict:
    cfg, params = workload("T", scratch)
    requests = long_tail(32, cfg.vocab_size)
    replace = dataclasses.replace
    base = tokens_of(Engine(cfg, params, SHAPE_T, eos_ids=()), requests)
    mesh = ModelMesh.of_sizes(cfg, replicas=2)
    others = [
        tokens_of(Engine(cfg, params, SHAPE_T, eos_ids=()), requests[::-1]),
        tokens_of(Engine(cfg, params, replace(SHAPE_T, window=32), eos_ids=()), requests),
        tokens_of(Engine(cfg, params, replace(SHAPE_T, slots=5), eos_ids=()), requests),
        tokens_of(Engine(cfg, params, SHAPE_T, mesh=mesh, eos_ids=()), requests),
    ]
    shares = [sum(base[key] == other[key] for key in base) / len(base) for other in others]
    return {"identical_tokens": min(shares)}


def mesh(scratch: Path) -> dict:
    cfg, params = workload("T", scratch)
    requests = long_tail(16, cfg.vocab_size)
    shape = dataclasses.replace(SHAPE_T, slots=8, replicas="together", max_length=256)

    def engine(dp: int, tp: int) -> Engine:
        mesh = ModelMesh.of_sizes(cfg, replicas=dp, tensor=tp)
        return Engine(cfg, params, shape, mesh=mesh, eos_ids=())

    base = tokens_of(engine(1, 1), requests)
    spread = tokens_of(engine(4, 1), requests)
    split = engine(1, 4)
    return {
        "dp_identical": sum(base[key] == spread[key] for key in base) / len(base),
        "tp_max_logit_diff": logit_difference(cfg, params, split),
        "collective_bytes_ratio": collective_bytes(split) / ideal_bytes(split),
    }


def logit_difference(cfg, params, split: Engine) -> float:
    """Largest difference of logits over 128 tokens, four devices against one."""
    tokens = np.random.default_rng(0).integers(1, cfg.vocab_size, (2, 64)).astype(np.int32)
    positions = np.broadcast_to(np.arange(64, dtype=np.int32), tokens.shape)
    device = split._devices[0]
    stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *device.params["layers"])

    def scores(weights: dict) -> np.ndarray:
        hidden = forward(weights, cfg, tokens, positions, np.ones_like(tokens))
        return np.asarray(logits(weights, cfg, hidden))

    return float(np.abs(scores(params) - scores({**device.params, "layers": stacked})).max())


def collective_bytes(engine: Engine) -> float:
    """Bytes that one decode step hands to collectives, from the compiled program."""
    device = engine._devices[0]
    table = device.layout.put(engine._allocator(device).table, device.layout.rows)
    spec = dataclasses.replace(device.spec, steps=1)
    lowered = decode.lower(device.params, device.cache, device.slots, table, spec=spec)
    text = lowered.compile().as_text()
    return total(collectives_of(text, branches="least")).bytes


def ideal_bytes(engine: Engine) -> int:
    """Two all-reduces a layer, one for the embedding, and each device's 64 candidates."""
    rows, cfg = engine.config.slots, engine.cfg
    candidates = 4 * rows * 64 * 2 * 4  # devices x rows x (value and id)
    return (2 * cfg.num_layers + 1) * rows * cfg.hidden_size * 4 + candidates


def occupancy(scratch: Path) -> dict:
    began = time.perf_counter()
    stats = rehearse(40_000, 128)
    seconds = time.perf_counter() - began
    return {
        "occupancy_40k_128": stats.occupancy,
        "scheduler_us_per_token_40k": 1e6 * seconds / stats.tokens,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, epilog="Started by generate.py.")
    parser.add_argument("section", help="a function of this file")
    parser.add_argument("scratch", type=Path)
    parser.add_argument("out", type=Path, help="where the figures go, as JSON")
    given = parser.parse_args()
    given.out.write_text(json.dumps(globals()[given.section](given.scratch)))
