"""1 to 64 replicas without a model: is the work spread evenly, and the memory of a host flat?

    python scripts/bench/weak_scaling.py --json scripts/bench/results/weak_scaling.json

Each replica gets 625 prompts (40,000 for 64) with long-tailed response lengths and runs them
through the real scheduler (128 slots, windows of 32) and a row store of its own; only the device
is fake: every slot gives a token a step. A step is taken to cost the same on every replica, so
time is counted in steps, and all replicas run side by side. They share one queue, as the
processes of a run do, or have what the hash of `--part` gives them ("parts").

    imbalance      most tokens of a replica over the mean
    slowest        steps of the slowest replica over the mean: what the others wait for it
    efficiency     useful tokens over slots x steps of the slowest x replicas
    scaling        efficiency over that of one replica
    tail           share of a replica's steps in which its queue was empty, the mean
    missing, twice rows of all stores that are absent or there more than once
    peak_rss_bytes of a host's process, which runs one replica
    guessed        64 replicas that share a queue, asked in the order of a guess of each length
                   (the length times a lognormal factor of sigma 0.6)
    order          one replica, asked in the order of guesses of several sigmas (null is the order
                   given): its tail, and its steps over tokens / slots
    ladder         steps of one replica whose guard refuses one answer of ten, up to 3 attempts:
                   all in one queue, attempt by attempt, and tokens / slots. Verdicts cost none
    samples        the same of 4 samples of each of 156 prompts, as `rejection` has them
    makespan_64    steps of 64 rows in 64 slots over those of the longest row
    split_40k      imbalance of 40,000 prompts over so many replicas: cut by hash, as parts are, and
                   dealt out one by one, so that only their lengths differ; mean of 20 draws
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count as numbers_from_0
from pathlib import Path

import numpy as np
from machine import machine
from rehearsal import CountingDevice
from synthesis_scale import END, EndingDevice, FakeGuard, FakeTokenizer
from workloads import chain_of_thought_lengths

from thinksafe_jax.config import EngineConfig, SamplingConfig, SynthesisConfig
from thinksafe_jax.data import Prompt
from thinksafe_jax.hosts import Group, shared_queue
from thinksafe_jax.runs import Part, RowBuffer, RowStore
from thinksafe_jax.sampling import Request
from thinksafe_jax.sampling.pages import PageAllocator
from thinksafe_jax.sampling.scheduler import Scheduler
from thinksafe_jax.sampling.stats import EngineStats
from thinksafe_jax.synthesis import Ledger, Rounds

PER_REPLICA, SLOTS, WINDOW, PAGE, PROMPT = 625, 128, 32, 64, 250
REPLICAS = (1, 2, 4, 8, 16, 32, 64)


class Member(Group):
    """A process whose queue is counted here, beside the others."""

    def __init__(self, index: int, count: int, numbers: Iterator[int]):
        super().__init__()
        self.index, self.count, self._numbers = index, count, numbers

    def counter(self, name: str) -> Callable[[], int]:
        return self._numbers.__next__


@dataclass
class Replica:
    """The rows of one replica on their way: tokens, steps, and when the queue was empty."""

    rows: Iterator[int]
    lengths: np.ndarray
    store: RowStore
    slots: int = SLOTS
    drained: int | None = None  # windows until then

    def __post_init__(self) -> None:
        self.stats = EngineStats()
        device = CountingDevice(self.slots, WINDOW)
        longest = PROMPT + int(self.lengths.max())
        self.run = scheduler(device, longest, self._requests(), self.stats, self.slots)
        self.buffer = RowBuffer(self.store)

    def _requests(self) -> Iterator[Request]:
        for n in self.rows:
            sampling = SamplingConfig(max_new_tokens=int(self.lengths[n]))
            yield Request(name(n), range(PROMPT), sampling)
        self.drained = self.stats.windows

    def step(self) -> bool:
        """One window; False when there is nothing more to do."""
        for done in self.run.step():
            self.buffer.add({"id": done.id, "tokens": len(done.token_ids)})
        return not self.run.idle

    @property
    def steps(self) -> int:
        return self.stats.windows * WINDOW

    @property
    def tail(self) -> float:
        return (self.stats.windows - (self.drained or 0)) / self.stats.windows


def scheduler(
    device: CountingDevice,
    longest: int,
    requests: Iterator,
    stats: EngineStats,
    slots: int = SLOTS,
    eos_ids: tuple[int, ...] = (),
) -> Scheduler:
    pages = PageAllocator(slots * -(-longest // PAGE) + 1, slots, -(-longest // 512) * 8, PAGE)
    config = EngineConfig(slots=slots, window=WINDOW, page_size=PAGE)
    return Scheduler(device, config, pages, 1, eos_ids, requests, stats)


def run_replicas(
    lengths: np.ndarray,
    folder: Path,
    replicas: int = 1,
    *,
    guess: np.ndarray | None = None,
    parts: bool = False,
    slots: int = SLOTS,
) -> list[Replica]:
    """Samples all rows on so many replicas, which go window by window together.

    Args:
        guess: of each length; the longest come first.
        parts: cut by the hash of the ids instead of one queue.
    """
    order = list(range(len(lengths))) if guess is None else np.argsort(-guess).tolist()
    numbers, runs = numbers_from_0(), []
    for n in range(replicas):
        part = Part(n, replicas)
        mine = iter([row for row in order if name(row) in part]) if parts else shared_queue(
            Member(n, replicas, numbers), "rows", order, slots
        )  # fmt: skip
        runs.append(Replica(mine, lengths, RowStore(folder / "samples", writer=part.name), slots))
    running = runs
    while running:
        running = [replica for replica in running if replica.step()]
    for replica in runs:
        replica.buffer.flush()
    return runs


def name(row: int) -> str:
    return f"row-{row}"


def scale(replicas: int, *, sigma: float | None = None, parts: bool = False) -> dict:
    """All replicas of a run, and what came of them together."""
    lengths = chain_of_thought_lengths(PER_REPLICA * replicas)
    guess = None if sigma is None else guessed(lengths, sigma, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        runs = run_replicas(lengths, Path(scratch), replicas, guess=guess, parts=parts)
        store = RowStore(Path(scratch) / "samples")
        present = store.keys()
        twice = store.duplicates
    tokens = np.array([replica.stats.tokens for replica in runs])
    steps = np.array([replica.steps for replica in runs])
    return {
        "replicas": replicas,
        "prompts": len(lengths),
        "imbalance": round(float(tokens.max() / tokens.mean()), 4),
        "slowest": round(float(steps.max() / steps.mean()), 4),
        "efficiency": round(float(tokens.sum() / (SLOTS * steps.max() * replicas)), 4),
        "tail": round(float(np.mean([replica.tail for replica in runs])), 4),
        "missing": len(lengths) - len(present),
        "twice": twice,
    }


def guessed(lengths: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    return lengths * np.random.default_rng(seed).lognormal(0, sigma, len(lengths))


def host_memory(replicas: int) -> int:
    """Peak of a process that runs the first of so many replicas."""
    command = [sys.executable, __file__, "--host-of", str(replicas)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def by_order(sigma: float | None) -> dict:
    """One replica whose requests come by a guess of their lengths; mean of 5 draws of lengths."""
    runs = []
    for seed in range(5):
        lengths = chain_of_thought_lengths(PER_REPLICA, seed)
        guess = None if sigma is None else guessed(lengths, sigma, seed)
        with tempfile.TemporaryDirectory() as scratch:
            (replica,) = run_replicas(lengths, Path(scratch), guess=guess)
        runs.append((replica.tail, replica.steps * SLOTS / replica.stats.tokens))
    tail, over = np.mean(runs, axis=0)
    return {
        "sigma": sigma,
        "tail": round(float(tail), 4),
        "steps_over_ideal": round(float(over), 4),
    }


class CountingEngine:
    """The real scheduler; a row ends when its length says so. Counts the steps of all calls."""

    slots = SLOTS

    def __init__(self, lengths: np.ndarray):
        self.lengths, self.steps, self.tokens = lengths, 0, 0  # i64 [prompts, attempts]

    def refuses(self, request: Request) -> str | None:
        return None

    def generate(self, requests: Iterator) -> Iterator:
        self.stats = EngineStats()
        longest = PROMPT + int(self.lengths.max())
        device = EndingDevice(SLOTS, WINDOW)
        run = scheduler(device, longest, map(self._sized, requests), self.stats, eos_ids=(END,))
        while True:
            yield from run.step()
            if run.idle:
                break
        self.steps += self.stats.windows * WINDOW
        self.tokens += self.stats.tokens

    def _sized(self, request: Request | None) -> Request | None:
        if request is None:
            return None
        length = int(self.lengths[int(request.id), request.sample])
        return replace(request, sampling=SamplingConfig(max_new_tokens=length))


def by_attempts(prompts: int, cfg: SynthesisConfig, *, one_queue: bool) -> dict:
    """Steps of all attempts of a replica's prompts, the steps that full slots would take."""
    asked = [Prompt(str(n), f"prompt {n}", "harmful") for n in range(prompts)]
    lengths = chain_of_thought_lengths(prompts * cfg.attempts).reshape(prompts, cfg.attempts)
    engine, guard = CountingEngine(lengths), FakeGuard()
    between = None if cfg.method == "rejection" else lambda: guard
    ladders = [cfg.attempts] if one_queue else range(1, cfg.attempts + 1)
    with tempfile.TemporaryDirectory() as scratch:
        names, key = ("samples", "verdicts"), ("id", "attempt")
        samples, verdicts = (RowStore(Path(scratch) / name, key) for name in names)
        ledger = Ledger(cfg.reasoning)
        for attempts in ladders:
            so_far = replace(cfg, attempts=attempts)
            tokenizer = FakeTokenizer()
            rounds = Rounds(so_far, asked, tokenizer, samples, verdicts, ledger, lambda: None)
            rounds.sample(engine, between)
            if between is not None:
                rounds.judge(guard)
    return {
        "rows": len(ledger.lengths),
        "steps": engine.steps,
        "steps_over_ideal": round(engine.steps * SLOTS / engine.tokens, 4),
    }


def attempts_in_one_queue(prompts: int, cfg: SynthesisConfig) -> dict[str, dict]:
    return {
        "one_queue": by_attempts(prompts, cfg, one_queue=True),
        "attempt_by_attempt": by_attempts(prompts, cfg, one_queue=False),
    }


def makespan_64() -> float:
    """Rows that all begin at once end with the longest of them."""
    lengths = chain_of_thought_lengths(64)
    with tempfile.TemporaryDirectory() as scratch:
        (replica,) = run_replicas(lengths, Path(scratch), slots=64)
    return round(replica.steps / int(lengths.max()), 4)


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
            run_replicas(lengths[:: asked.host_of], Path(scratch))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    # first: a process begins with the peak of the one that started it, which grows with replicas
    memory = {n: host_memory(n) for n in asked.replicas}
    result = {
        "order": [by_order(sigma) for sigma in (None, 0.6, 0.3, 0.0)],
        "ladder": attempts_in_one_queue(PER_REPLICA, SynthesisConfig(attempts=3)),
        "samples": attempts_in_one_queue(156, SynthesisConfig(method="rejection", attempts=4)),
        "makespan_64": makespan_64(),
        "split_40k": {str(n): split_40k(n) for n in (4, 16, 64)},
    }
    print(json.dumps(result))
    rows = [scale(n) | {"peak_rss_bytes": memory[n]} for n in asked.replicas]
    most = max(asked.replicas)
    others = {"parts": scale(most, parts=True), "guessed": scale(most, sigma=0.6)}
    for row in [*rows, *others.values()]:
        row["scaling"] = round(row["efficiency"] / rows[0]["efficiency"], 4)
        print(json.dumps(row))
    result = {"rows": rows, **others, **result, "machine": machine()}
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
