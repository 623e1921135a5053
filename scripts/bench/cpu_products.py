# taskset -c 0 python scripts/bench/cpu_products.py --json scripts/bench/results/cpu_products.json
"""The matrix products of a decode step of workload T on a CPU, in every form that was weighed.

    few, plain    `few_rows_matmul` (what decode runs up to JAX 0.10) and `plain_matmul`
    in-out        a kernel that is stored as [in, out]
    joined        q, k and v in one product, gate and up in one
    numpy         the same products in numpy's BLAS, without what lies between them

Milliseconds of a step of 16 rows, the fastest of many by turns: of the processor where there is one
(`taskset -c 0`), which other programs touch little; else of the clock. And `row_classes`: with how
many rows a row's bits change, for each form. XLA's own options go in as XLA_FLAGS, and are kept.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from workloads import MODELS

from thinksafe_jax.models import few_rows_matmul, plain_matmul, rms_norm

ROWS, STEPS, TIMES = 16, 8, 40
COUNTS = (2, 4, 8, 9, 16, 17, 30, 32, 48, 64)  # of rows whose bits are compared
HIDDEN, MLP, VOCAB, LAYERS = (
    MODELS["T"][name]
    for name in ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers")
)
KEYS = MODELS["T"]["num_key_value_heads"] * MODELS["T"]["head_dim"]
SHAPES = {"q": (HIDDEN, HIDDEN), "k": (KEYS, HIDDEN), "v": (KEYS, HIDDEN), "o": (HIDDEN, HIDDEN),
          "gate": (MLP, HIDDEN), "up": (MLP, HIDDEN), "down": (HIDDEN, MLP)}  # fmt: skip
JOINED = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
Product = Callable[[jax.Array, jax.Array], jax.Array]


def in_out(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


FORMS: dict[str, Product] = {"few": few_rows_matmul, "plain": plain_matmul, "in-out": in_out}


def kernels(joined: bool) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Of each layer, and the LM head; `[out, in]`."""
    rng = np.random.default_rng(0)

    def random(out: int, depth: int) -> np.ndarray:
        return (rng.normal(size=(out, depth)) / np.sqrt(depth)).astype(np.float32)

    layers = [{name: random(*shape) for name, shape in SHAPES.items()} for _ in range(LAYERS)]
    if joined:
        layers = [
            {name: np.concatenate([of[part] for part in parts]) for name, parts in JOINED.items()}
            for of in layers
        ]
    return layers, random(VOCAB, HIDDEN)


def layer(weights: dict[str, jax.Array], x: jax.Array, product: Product) -> jax.Array:
    """A decoder layer whose attention costs nothing: q plus k and v side by side."""
    ones = jnp.ones(HIDDEN, jnp.float32)
    h = rms_norm(x, ones, 1e-6)
    if "qkv" in weights:
        q, k, v = jnp.split(product(h, weights["qkv"]), (HIDDEN, HIDDEN + KEYS), axis=1)
    else:
        q, k, v = (product(h, weights[name]) for name in "qkv")
    x = x + product(q + jnp.concatenate([k, v], axis=1), weights["o"])
    h = rms_norm(x, ones, 1e-6)
    if "gate_up" in weights:
        gate, up = jnp.split(product(h, weights["gate_up"]), 2, axis=1)
    else:
        gate, up = product(h, weights["gate"]), product(h, weights["up"])
    return x + product(jax.nn.silu(gate) * up, weights["down"])


def program(name: str, joined: bool, x: jax.Array) -> Callable[[], jax.Array]:
    product, (layers, head) = FORMS[name], kernels(joined)
    order = np.transpose if name == "in-out" else np.asarray
    held = jax.tree.map(lambda k: jnp.asarray(np.ascontiguousarray(order(k))), (layers, head))

    def steps(held: tuple[list[dict[str, jax.Array]], jax.Array], x: jax.Array) -> jax.Array:
        def step(_: jax.Array, x: jax.Array) -> jax.Array:
            for weights in held[0]:
                x = layer(weights, x, product)
            logits = product(x, held[1])
            return x / 2 + logits.reshape(ROWS, -1, HIDDEN).max(axis=1) / 8

        return jax.lax.fori_loop(0, STEPS, step, x)

    compiled = jax.jit(steps).lower(held, x).compile()
    return lambda: jax.block_until_ready(compiled(held, x))


def numpy_step() -> Callable[[], None]:
    layers, head = kernels(joined=False)
    flat = [kernel for of in layers for kernel in of.values()] + [head]
    rows = {depth: np.ones((ROWS, depth), np.float32) for depth in (HIDDEN, MLP)}

    def steps() -> None:
        for _ in range(STEPS):
            for kernel in flat:
                np.matmul(rows[kernel.shape[1]], kernel.T)

    return steps


def row_classes(name: str, out: int, depth: int) -> list[int]:
    """COUNTS from which on the first two rows of a product have other bits than before."""
    rng, product = np.random.default_rng(0), jax.jit(FORMS[name])
    kernel = rng.normal(size=(depth, out) if name == "in-out" else (out, depth))
    kernel, x = (jnp.asarray(a, jnp.float32) for a in (kernel, rng.normal(size=(64, depth))))
    bits = [np.asarray(product(x[:n], kernel))[:2].tobytes() for n in COUNTS]
    return [n for n, new, last in zip(COUNTS[1:], bits[1:], bits, strict=False) if new != last]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to keep the results")
    args = parser.parse_args()
    cores, here = len(os.sched_getaffinity(0)), machine()
    clock = time.process_time if cores == 1 else time.perf_counter
    x = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, HIDDEN)), jnp.float32)
    runs = {f"{n}{', joined' * j}": program(n, j, x) for n in FORMS for j in (False, True)}
    runs["numpy"] = numpy_step()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TIMES + 1):
        for name, run in runs.items():
            began = clock()
            run()
            seconds[name].append((clock() - began) / STEPS)
    step_ms = {name: 1e3 * min(taken[1:]) for name, taken in seconds.items()}
    classes = {
        f"{name} {out}x{depth}": row_classes(name, out, depth)
        for name in FORMS
        for out, depth in ((MLP, HIDDEN), (HIDDEN, MLP), (1024, 3072))
    }
    flags = os.environ.get("XLA_FLAGS", "")
    results = {"step_ms": step_ms, "row_classes": classes}
    print(json.dumps(results, indent=2))
    if args.json:
        kept = json.loads(args.json.read_text()) if args.json.exists() else {}
        key = f"jax {jax.__version__}, {cores} processors, flags {flags or 'none'}"
        kept[key] = {"machine": here, "results": results}
        args.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
