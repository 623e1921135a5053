# python scripts/bench/attention.py --json scripts/bench/results/attention.json
"""Attention of a training step on one accelerator: every implementation that runs here.

Four sequences of 4,096 tokens in which rows are packed, at the heads of Qwen3-0.6B (16 queries, 8
KV heads of 128), bfloat16. FLOPs are those of the pairs of tokens that see each other, 3.5 times as
many with the backward pass; the error is the relative norm of the difference from `blocks`, of the
output and of the gradients of q, k and v. `--smoke` is a shape that can be tried anywhere.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from stepper import fastest, timed

from thinksafe_jax.models import AttentionRequest, refusals
from thinksafe_jax.models.attention import IMPLEMENTATIONS

ROWS = ((1700, 2396), (4096,), (1024,) * 4, (3000, 1096))  # of each sequence


def measure(attend: Callable[..., jax.Array], arrays: tuple, segments: jax.Array) -> dict:
    """Milliseconds forward, and forward and backward; the output and the gradients."""
    forward = jax.jit(lambda q, k, v: attend(q, k, v, segments))
    both = jax.jit(lambda q, k, v, g: jax.vjp(lambda *a: attend(*a, segments), q, k, v)[1](g))
    out = forward(*arrays[:3])
    seconds = fastest(
        lambda: timed(lambda: forward(*arrays[:3]).block_until_ready()),
        lambda: timed(lambda: jax.block_until_ready(both(*arrays, out))),
    )
    return {"ms": [1e3 * x for x in seconds], "results": (out, *both(*arrays, out))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--smoke", action="store_true", help="rows of a sixteenth, fewer heads")
    args = parser.parse_args()
    scale, heads, kv_heads, width = (16, 2, 1, 16) if args.smoke else (1, 16, 8, 128)
    ids = [np.repeat(np.arange(len(r)) + 1, np.array(r) // scale) for r in ROWS]
    length = max(map(len, ids))
    segments = jnp.asarray(np.stack([np.pad(x, (0, length - len(x))) for x in ids]), jnp.int32)
    shapes = [(len(ROWS), length, n, width) for n in (heads, kv_heads, kv_heads)]
    arrays = tuple(
        jax.random.normal(jax.random.key(n), shape, jnp.bfloat16) for n, shape in enumerate(shapes)
    )
    pairs = sum((n // scale) * (n // scale + 1) // 2 for rows in ROWS for n in rows)
    flops = 4 * pairs * heads * width
    request = AttentionRequest(jax.default_backend(), width, "bfloat16", length)
    rows, exact = [], None
    for name, reason in sorted(refusals(IMPLEMENTATIONS, request).items()):  # blocks is first
        row: dict = {"implementation": name, "refused": reason}
        if reason is None:
            done = measure(IMPLEMENTATIONS[name].attend, arrays, segments)
            row |= {"forward_ms": done["ms"][0], "with_backward_ms": done["ms"][1]}
            row["forward_tflops"] = flops / done["ms"][0] / 1e9
            row["with_backward_tflops"] = 3.5 * flops / done["ms"][1] / 1e9
            results = [np.asarray(x.astype(jnp.float32)) for x in done["results"]]
            exact = exact or results
            norm = np.linalg.norm
            row["error"] = [
                float(norm(a - b) / norm(a)) for a, b in zip(exact, results, strict=True)
            ]
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.json:
        kept = json.loads(args.json.read_text()) if args.json.exists() else {}
        new = {"machine": machine(), "device": jax.devices()[0].device_kind, "attention": rows}
        kept |= new  # block sizes were tried by hand, and stay
        args.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
