"""1 to 64 replicas without a model: is the work spread evenly, and the memory of a host flat?

    python scripts/bench/weak_scaling.py --json scripts/bench/results/weak_scaling.json

Each replica gets 625 prompts (40,000 for 64) with long-tailed response lengths, by the hash of
`--part`, and runs them through the real scheduler (128 slots, windows of 32) and a row store of
its own; only the device is fake: every slot gives a token a step. A step is taken to cost the same
on every replica, so time is counted in steps.

    imbalance      most tokens of a replica over the mean
    slowest        steps of the slowest replica over the mean: what the others wait for it
    efficiency     useful tokens over slots x steps of the slowest x replicas
    scaling        efficiency over that of one replica
    tail           share of a replica's steps in which its queue was empty, the mean
    missing, twice rows of all stores that are absent or there more than once
    peak_rss_bytes of a host's process, which runs one replica
    order          one replica, asked in the order of a guess of each length (the length times
                   a lognormal factor of that sigma; null is the order given): its tail, and its
                   steps over tokens / slots
    makespan_64    steps of 64 rows in 64 slots over those of the longest row
    split_40k      imbalance of 40,000 prompts over so many replicas: cut by hash, as here, and
                   dealt out one by one, so that only their lengths differ; mean of 20 draws
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import machine
from rehearsal import CountingDevice
from workloads import chain_of_thought_lengths

from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.runs import Part, RowBuffer, RowStore
from thinksafe_jax.sampling import Request
from thinksafe_jax.sampling.pages import PageAllocator
from thinksafe_jax.sampling.scheduler import Scheduler
from thinksafe_jax.sampling.stats import EngineStats

PER_REPLICA, SLOTS, WINDOW, PAGE, PROMPT = 625, 128, 32, 64, 250
REPLICAS = (1, 2, 4, 8, 16, 32, 64)


def run_replica(
    part: Part,
    lengths: np.ndarray,
    folder: Path,
    guess: np.ndarray | None = None,
    slots: int = SLOTS,
) -> dict:
    """Samples the rows of one part: tokens, steps, and the share of steps with an empty queue.

    Args:
        guess: of each length; the longest come first.
    """
    rows_of_part = [n for n in range(len(lengths)) if name(n) in part]
    if guess is not None:
        rows_of_part.sort(key=lambda n: -guess[n])
    queued = 0

    def requests():
        nonlocal queued
        for n in rows_of_part:
            queued += 1
            sampling = SamplingConfig(max_new_tokens=int(lengths[n]))
            yield Request(name(n), range(PROMPT), sampling)

    longest = PROMPT + int(lengths.max())
    pages = PageAllocator(slots * -(-longest // PAGE) + 1, slots, -(-longest // 512) * 8, PAGE)
    config, stats = EngineConfig(slots=slots, window=WINDOW, page_size=PAGE), EngineStats()
    device = CountingDevice(slots, WINDOW)
    run = Scheduler(device, config, pages, 1, (), requests(), stats)
    drained = None
    with RowBuffer(RowStore(folder / "samples", writer=part.name)) as rows:
        while True:
            for done in run.step():
                rows.add({"id": done.id, "tokens": len(done.token_ids)})
            if queued == len(rows_of_part) and drained is None:
                drained = stats.windows
            if run.idle:
                break
    tail = (stats.windows - (drained or 0)) / stats.windows
    return {"tokens": stats.tokens, "steps": stats.windows * WINDOW, "tail": tail}


def name(row: int) -> str:
    return f"row-{row}"


def scale(replicas: int) -> dict:
    """All replicas of a run, one after another, and what came of them together."""
    lengths = chain_of_thought_lengths(PER_REPLICA * replicas)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        results = [run_replica(Part(n, replicas), lengths, folder) for n in range(replicas)]
        store = RowStore(folder / "samples")
        present = store.keys()
        twice = store.duplicates
    tokens, steps = (np.array([result[key] for result in results]) for key in ("tokens", "steps"))
    return {
        "replicas": replicas,
        "prompts": len(lengths),
        "imbalance": round(float(tokens.max() / tokens.mean()), 4),
        "slowest": round(float(steps.max() / steps.mean()), 4),
        "efficiency": round(float(tokens.sum() / (SLOTS * steps.max() * replicas)), 4),
        "tail": round(float(np.mean([result["tail"] for result in results])), 4),
        "missing": len(lengths) - len(present),
        "twice": twice,
        "peak_rss_bytes": host_memory(replicas),
    }


def host_memory(replicas: int) -> int:
    """Peak of a process that runs the first of so many replicas."""
    command = [sys.executable, __file__, "--host-of", str(replicas)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def by_order(sigma: float | None) -> dict:
    """One replica whose requests come by a guess of their lengths; mean of 5 draws of lengths."""
    runs = []
    for seed in range(5):
        lengths = chain_of_thought_lengths(PER_REPLICA, seed)
        guess = None
        if sigma is not None:
            guess = lengths * np.random.default_rng(seed).lognormal(0, sigma, len(lengths))
        with tempfile.TemporaryDirectory() as scratch:
            of_run = run_replica(Part(0, 1), lengths, Path(scratch), guess)
        over = of_run["steps"] * SLOTS / of_run["tokens"]
        runs.append((of_run["tail"], over))
    tail, over = np.mean(runs, axis=0)
    return {
        "sigma": sigma,
        "tail": round(float(tail), 4),
        "steps_over_ideal": round(float(over), 4),
    }


def makespan_64() -> float:
    """Rows that all begin at once end with the longest of them."""
    lengths = chain_of_thought_lengths(64)
    with tempfile.TemporaryDirectory() as scratch:
        steps = run_replica(Part(0, 1), lengths, Path(scratch), slots=64)["steps"]
    return round(steps / int(lengths.max()), 4)


def split_40k(replicas: int) -> dict[str, float]:
    """Most tokens of a part over the mean."""
    parts = [Part(n, replicas) for n in range(replicas)]
    hashed = np.array([next(p.number for p in parts if name(n) in p) for n in range(40_000)])
    cuts = {"by_hash": hashed, "dealt": np.arange(40_000) % replicas}
    ratios: dict[str, list[float]] = {cut: [] for cut in cuts}
    for seed in range(20):
        lengths = chain_of_thought_lengths(40_000, seed)
        for cut, part_of in cuts.items():
            tokens = np.bincount(part_of, lengths, minlength=replicas)
            ratios[cut].append(tokens.max() / tokens.mean())
    return {cut: round(float(np.mean(seeds)), 4) for cut, seeds in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--replicas", type=int, nargs="*", default=REPLICAS)
    parser.add_argument("--host-of", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.host_of:
        lengths = chain_of_thought_lengths(PER_REPLICA * asked.host_of)
        with tempfile.TemporaryDirectory() as scratch:
            run_replica(Part(0, asked.host_of), lengths, Path(scratch))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    order = [by_order(sigma) for sigma in (None, 0.6, 0.3, 0.0)]
    print(json.dumps({"order": order, "makespan_64": makespan_64()}))
    rows = [scale(count) for count in asked.replicas]
    for row in rows:
        row["scaling"] = round(row["efficiency"] / rows[0]["efficiency"], 4)
        print(json.dumps(row))
    result = {
        "rows": rows,
        "order": order,
        "makespan_64": makespan_64(),
        "split_40k": {str(n): split_40k(n) for n in (4, 16, 64)},
        "machine": machine(),
    }
    print(json.dumps(result["split_40k"]))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
