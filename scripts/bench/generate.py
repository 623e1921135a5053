# python scripts/bench/generate.py --json scripts/bench/results/generate.json
"""The sampler against transformers' own, and against the memory it reads; section by section.

    rivals      vs_transformers_generate, vs_transformers_continuous: useful tokens a second of the
                long-tailed workload T over transformers `generate` in static batches (best of batch
                sizes and threads) and over its continuous batching, the sides by turns;
                vs_tunix with --tunix: over google-tunix's own sampler, best of its batch sizes
    floor       step_over_floor_b1, _b4, _b8: a decode step of workload W over the time in which
                this machine reads the weights and the live keys and values
    adapter     adapter_over_merged_b1, _b8: a decode step of W with an adapter (rank 32 on q and
                v) beside the weights over one with it merged; sampling_logprobs_over_none_b1, _b8:
                with the log-probabilities of the draw over one without; update_adapter_ms
    programs    raggedness, temp_over_cache, alias_over_cache, sampling_share; and of the draw alone
                sampling_share_unfiltered, sampling_ratio_unfiltered, sampling_ratio_wide_row:
                without filters, and with one row whose top-p keeps more than 64 tokens,
                over the filtered draw
    host        compiles_after_warmup, host_share, padding
    pool        pool_use, throughput_pool_40 (and that its text is the same)
    identical   identical_tokens over order, window, slots and replicas
    mesh        dp_identical, tp_max_logit_diff, collective_bytes_ratio, on 8 simulated devices
    occupancy   occupancy_40k_128: 40,000 chains of thought in 128 slots, without a model

Every ratio is of two things measured in one run, by turns. Useful tokens are those that a request
asked for: no padding, no prompts, nothing after the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

SECTIONS = (
    "rivals", "floor", "adapter", "programs", "host", "pool", "identical", "mesh", "occupancy",
)  # fmt: skip
AIMS = {
    "vs_transformers_generate": (">=", 5.0),
    "vs_transformers_continuous": (">=", 2.5),
    "occupancy_40k_128": (">=", 0.98),
    "step_over_floor_b1": ("<=", 1.2),
    "step_over_floor_b4": ("<=", 2.0),
    "step_over_floor_b8": ("<=", 2.2),
    "adapter_over_merged_b1": ("<=", 1.05),
    "adapter_over_merged_b8": ("<=", 1.05),
    "raggedness": ("<=", 1.1),
    "temp_over_cache": ("<=", 0.2),
    "alias_over_cache": (">=", 0.98),
    "compiles_after_warmup": ("<=", 0),
    "host_share": ("<=", 0.06),
    "sampling_share": ("<=", 0.10),
    "sampling_share_unfiltered": ("<=", 0.15),
    "sampling_ratio_unfiltered": ("<=", 1.5),
    "sampling_ratio_wide_row": ("<=", 3.0),
    "identical_tokens": (">=", 1.0),
    "dp_identical": (">=", 1.0),
    "tp_max_logit_diff": ("<=", 1e-3),
    "collective_bytes_ratio": ("<=", 1.1),
    "pool_use": (">=", 0.85),
    "throughput_pool_40": (">=", 0.9),
}


def section(name: str, scratch: Path) -> dict:
    """One section in its own process: clean caches, its own number of devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if name in ("mesh", "identical"):
        flags += " --xla_force_host_platform_device_count=8"
    out = scratch / f"{name}.json"
    command = [sys.executable, str(Path(__file__).with_name("generate_sections.py"))]
    subprocess.run(
        [*command, name, str(scratch), str(out)], check=True, env={**os.environ, "XLA_FLAGS": flags}
    )
    return json.loads(out.read_text())


def tunix(python: Path, scratch: Path, ours: float) -> dict:
    """google-tunix, in its own environment, on what the section `rivals` left there."""
    script = Path(__file__).with_name("rival_tunix.py")
    command = [python, script, scratch / "T", scratch / "requests.json"]
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    rates = json.loads(done.stdout.splitlines()[-1])
    batch = max(rates, key=lambda size: rates[size])
    return {
        "vs_tunix": ours / rates[batch],
        "tunix_tokens_per_s": rates[batch],
        "tunix_batch": int(batch),
    }


def table(results: dict) -> str:
    """Every figure with its aim."""
    lines = [f"{'metric':32s} {'measured':>10s}  aim"]
    for name, value in results.items():
        shown = f"{value:.4g}" if isinstance(value, (int, float)) else str(value)
        sign, aim = AIMS.get(name, ("", None))
        verdict = ""
        if aim is not None:
            met = value >= aim if sign == ">=" else value <= aim
            verdict = f"{sign} {aim:g}  {'met' if met else 'MISSED'}"
        lines.append(f"{name:32s} {shown:>10s}  {verdict}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="where to keep the results; sections measured again have their own machine there",
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--tunix", type=Path, help="a Python that has google-tunix")
    args = parser.parse_args()
    before, results = machine(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            results |= section(name, Path(scratch))
        if args.tunix and "rivals" in args.only:
            print("tunix ...", file=sys.stderr, flush=True)
            results |= tunix(args.tunix, Path(scratch), results["tokens_per_s"])
    print(table(results))
    if args.json:
        whole = {"machine": before, "results": results}
        if args.json.exists() and set(args.only) != set(SECTIONS):
            kept = json.loads(args.json.read_text())
            again = kept.get("measured_again", {}) | dict.fromkeys(args.only, before)
            whole = kept | {"results": kept["results"] | results, "measured_again": again}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
