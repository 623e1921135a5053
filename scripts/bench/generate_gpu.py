# python scripts/bench/generate_gpu.py --json scripts/bench/results/generate_gpu.json
"""The sampler on one accelerator: attention alone, a decode step, and real lengths end to end.

    attention   GB/s of live keys and values over the measured read bandwidth, for each
                implementation that runs here and the kernel that comes with JAX, at the model's
                heads
    step        a decode step over the time in which the weights and the live KV are read, at
                (64 slots, 1k tokens) and (128 slots, 4k tokens)
    histogram   useful tokens a second on lengths of real chains of thought, scaled down by --scale

Weights are random at the real shapes: speed does not need real ones. `--model smoke` is a tiny
model, with which the script can be tried anywhere.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from stepper import Stepper, fastest, timed
from workloads import chain_of_thought_lengths

from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.models import AttentionRequest, ModelConfig, init_params, refusals
from thinksafe_jax.sampling import Engine, KvCache, Request, table_pages
from thinksafe_jax.sampling.attention import IMPLEMENTATIONS
from thinksafe_jax.sampling.attention.pallas_gpu import refuses as refused_by_triton

QWEN3 = ModelConfig(
    family="qwen3", vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_layers=28,
    num_heads=16, num_kv_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=1e6,
    rope_scaling=None, max_position_embeddings=40_960, tie_word_embeddings=True, qkv_bias=False,
    o_bias=False, mlp_bias=False, qk_norm=True,
)  # fmt: skip
MODELS = {
    "Qwen3-0.6B": QWEN3,
    "Qwen3-8B": dataclasses.replace(
        QWEN3, hidden_size=4096, intermediate_size=12_288, num_layers=36, num_heads=32,
        tie_word_embeddings=False,
    ),
    "R1-Distill-Qwen-1.5B": dataclasses.replace(
        QWEN3, family="qwen2", hidden_size=1536, intermediate_size=8960, num_heads=12,
        num_kv_heads=2, rope_theta=1e4, tie_word_embeddings=False, qkv_bias=True, qk_norm=False,
    ),
    "smoke": dataclasses.replace(
        QWEN3, vocab_size=512, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4,
        num_kv_heads=2, head_dim=16,
    ),
}  # fmt: skip
POINTS = ((64, 1024), (128, 4096))
REPEATS = 20
JAX_KERNEL = "jax.experimental.pallas.ops.gpu.paged_attention"


def read_bandwidth() -> float:
    """Bytes a second of the fastest reduction over 2 GiB (64 MiB on a CPU)."""
    size = 2**24 if jax.default_backend() == "cpu" else 2**30
    x = jax.random.normal(jax.random.key(0), (size // 2**17, 2**17), jnp.bfloat16)
    reductions: list[Callable[[jax.Array], jax.Array]] = [
        jax.jit(lambda x: x.astype(jnp.float32).sum()),
        jax.jit(lambda x: x.astype(jnp.float32).sum(axis=1)),
        jax.jit(lambda x: x.max()),
    ]
    return x.nbytes / min(seconds_of(reduce, x) for reduce in reductions)


def seconds_of(run: Callable[..., jax.Array], *args: Any) -> float:
    """Of the fastest of some calls, the first of which compiles."""
    (seconds,) = fastest(lambda: timed(lambda: run(*args).block_until_ready()))
    return seconds


def repeated(attend: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """REPEATS calls in one program, each on what the one before gave: launching costs nothing."""
    return jax.jit(lambda q, *rest: jax.lax.fori_loop(0, REPEATS, lambda _, q: attend(q, *rest), q))


def jax_kernel(q: jax.Array, pages: Any, table: jax.Array, lengths: jax.Array) -> jax.Array:
    """The kernel that comes with JAX, in pieces of 512 tokens."""
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

    scaled = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    size = pages.page_size
    blocks = {"k_splits": table.shape[1] * size // 512, "pages_per_compute_block": 128 // size}
    return paged_attention(scaled, pages.keys, pages.values, table, lengths, **blocks)


def attention(cfg: ModelConfig, bandwidth: float, points: tuple) -> list[dict]:
    """Every implementation that runs here, at every point."""
    platform, page = jax.default_backend(), 64
    dtype = jnp.dtype("float32" if platform == "cpu" else "bfloat16")
    rows = []
    for slots, live in points:
        block = table_pages(page)
        width = -(-live // (page * block)) * block
        shapes = KvCache.abstract(cfg, slots * width + 1, page, dtype).layers[0]
        pages = jax.tree.map(
            lambda x: jax.random.normal(jax.random.key(x.ndim), x.shape, x.dtype), shapes
        )
        table = 1 + np.random.default_rng(0).permutation(slots * width).reshape(slots, width)
        q = jax.random.normal(jax.random.key(0), (slots, cfg.num_heads, cfg.head_dim), dtype)
        args = q, pages, jnp.asarray(table, jnp.int32), jnp.full(slots, live, jnp.int32)
        live_bytes = 2 * slots * live * cfg.num_kv_heads * cfg.head_dim * dtype.itemsize
        request = AttentionRequest(platform, cfg.head_dim, page_size=page)
        reasons = refusals(IMPLEMENTATIONS, request) | {JAX_KERNEL: refused_by_triton(request)}
        for name, reason in reasons.items():
            row = {"implementation": name, "slots": slots, "live": live, "refused": reason}
            if reason is None:
                kernel = name == JAX_KERNEL
                run = repeated(jax_kernel if kernel else IMPLEMENTATIONS[name].attend)
                seconds = seconds_of(run, *args)
                row["microseconds"] = 1e6 * seconds / REPEATS
                row["gb_per_s"] = live_bytes / (seconds / REPEATS) / 1e9
                row["of_bandwidth"] = 1e9 * row["gb_per_s"] / bandwidth
            rows.append(row)
    return rows


def steps(cfg: ModelConfig, params: dict, bandwidth: float, points: tuple) -> list[dict]:
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    if not cfg.tie_word_embeddings:
        weights -= params["embed"].nbytes  # only gathered
    rows = []
    for slots, live in points:
        config = EngineConfig(
            slots=slots, window=32, page_size=64, max_length=live + 512,
            pool_tokens=slots * (live + 128),
        )  # fmt: skip
        engine = Engine(cfg, params, config, eos_ids=())
        (seconds,) = fastest(Stepper(engine, live).seconds)
        kv = slots * live * KvCache.bytes_per_token(cfg, engine._devices[0].cache.dtype)
        rows.append(
            {
                "slots": slots, "live": live, "step_ms": 1e3 * seconds,
                "step_over_floor": seconds / ((weights + kv) / bandwidth),
                "tokens_per_s": slots / seconds, "attention": engine.attention,
            }
        )  # fmt: skip
        del engine
    return rows


def histogram(cfg: ModelConfig, params: dict, slots: int, requests: int, scale: int) -> dict:
    """Useful tokens a second, prefill and the tail included, compilation not."""
    lengths = np.maximum(1, chain_of_thought_lengths(requests) // scale)
    rng = np.random.default_rng(0)
    queue = [
        Request(
            f"row-{n}",
            rng.integers(1, cfg.vocab_size, 250).tolist(),
            SamplingConfig(0.6, 0.95, 20, 0.0, int(length)),
        )
        for n, length in enumerate(lengths)
    ]
    most = 250 + 16_384 // scale
    engine = Engine(
        cfg, params, EngineConfig(slots=slots, window=32, page_size=64, max_length=most),
        eos_ids=(),
    )  # fmt: skip
    engine.warm_up(256)
    for _ in engine.generate(queue):
        pass
    stats = engine.stats
    return {
        "tokens_per_s": stats.tokens / stats.seconds, "occupancy": stats.occupancy,
        "requests": requests, "slots": slots, "scale": scale, "compiles": stats.compiles,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["Qwen3-0.6B"])
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--scale", type=int, default=8, help="divide the real lengths by this")
    args = parser.parse_args()
    bandwidth = read_bandwidth()
    results = {"device": jax.devices()[0].device_kind, "read_gb_per_s": bandwidth / 1e9}
    for name in args.model:
        cfg = MODELS[name]
        points = ((4, 256),) if name == "smoke" else POINTS
        params = init_params(cfg, jax.random.key(0), jnp.bfloat16)
        kept = results[name] = {}
        sections = {
            "attention": partial(attention, cfg, bandwidth, points),
            "steps": partial(steps, cfg, params, bandwidth, points),
            "histogram": partial(histogram, cfg, params, args.slots, args.requests, args.scale),
        }
        for section, measure in sections.items():
            kept[section] = measure()
            print(json.dumps({name: {section: kept[section]}}, indent=1), flush=True)
            if args.json:
                args.json.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
