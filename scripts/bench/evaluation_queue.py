"""All suites of the paper for one model through one queue, without a model.

    python scripts/bench/evaluation_queue.py --json scripts/bench/results/evaluation_queue.json

2,165 safety samples and 2,047 x 8 reasoning samples with long-tailed lengths, in the order in which
`thinksafe evaluate` queues them. Occupancy is counted until the queue is empty: what follows is the
tail, in which slots can only run dry.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from machine import machine
from rehearsal import CountingDevice

from thinksafe_jax.config import EngineConfig, SamplingConfig
from thinksafe_jax.sampling import Request
from thinksafe_jax.sampling.pages import PageAllocator
from thinksafe_jax.sampling.scheduler import Scheduler
from thinksafe_jax.sampling.stats import EngineStats

SAFETY, REASONING = 2_165, 16_376
MOST = {"safety": 16_384, "reasoning": 32_768}


def simulate(slots: int = 256, window: int = 32, scale: int = 1) -> dict:
    """Occupancy until the tail, and over all; `scale` divides every length."""
    rng = np.random.default_rng(0)
    lengths = {
        "reasoning": rng.lognormal(8.3, 0.9, REASONING),  # median 4,000 tokens
        "safety": rng.lognormal(6.6, 0.8, SAFETY),
    }
    sizes = [max(1, min(int(n), MOST[kind]) // scale) for kind in lengths for n in lengths[kind]]
    left = iter(sizes)
    queued = 0

    def requests():
        nonlocal queued
        for queued, size in enumerate(left, start=1):
            yield Request(str(queued), range(16), SamplingConfig(max_new_tokens=size))

    config = EngineConfig(slots=slots, window=window, page_size=64)
    longest = 16 + MOST["reasoning"] // scale
    pages = slots * -(-longest // 64) + 1
    allocator = PageAllocator(pages, slots, -(-longest // 512) * 8, 64)
    stats = EngineStats()
    run = Scheduler(CountingDevice(slots, window), config, allocator, 1, (), requests(), stats)
    until_tail = None
    run.step()
    while not run.idle:
        if queued == len(sizes) and until_tail is None:
            until_tail = stats.tokens / stats.slot_steps
        run.step()
    return {
        "samples": stats.completions,
        "tokens": stats.tokens,
        "occupancy_until_tail": round(until_tail or 0.0, 4),
        "occupancy": round(stats.tokens / stats.slot_steps, 4),
        "slots": slots,
        "window": window,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    result = simulate() | {"machine": machine()}
    print(json.dumps(result, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
