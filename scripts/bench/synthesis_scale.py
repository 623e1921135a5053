"""A run of 40,000 prompts with a fake model: scheduler, writers, ladder and guard bookkeeping.

    taskset -c 0 python scripts/bench/synthesis_scale.py --json OUT
    (kept: scripts/bench/results/synthesis_scale.json)

The fake model is a device under the real scheduler: 256 slots, windows of 128 steps, every slot
gives 600 tokens and then the end. Its tokenizer knows one text of about the paper's length (2,700
characters), and the fake guard accepts nine of ten answers, so that three attempts are made.
Everything between is the program's own: reading and checking the prompts, requests, slots and
pages, rows on the disk, verdicts on the disk, the ledger, the dataset in JSONL and Parquet.

    rows_per_s      sampled rows over the seconds of the whole run: each is written, judged, its
                    verdict written, and read back into the dataset where it was accepted
    peak_rss_bytes  largest resident size of the process, the interpreter and imports included
    growth_bytes    how much of that came after a run of a tenth of the prompts
"""

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine
from rehearsal import CountingDevice

TOKENS, PROMPT, END = 600, 100, 2
SLOTS, WINDOW, PAGE = 256, 128, 128


class FakeTokenizer:
    """Knows one answer; a prompt is as many ids as it has words."""

    def __init__(self):
        thought = "This would hurt somebody, so I should not help. " * 55
        self.answer = f"<think>\n{thought}\n</think>\n\nI can't help with that."

    def prompt_ids(self, text: str) -> list[int]:
        return list(range(len(text.split())))

    def decode(self, ids: list[int]) -> str:
        return self.answer


class EndingDevice(CountingDevice):
    """Every slot produces the token 1, and as the last of its maximum the end."""

    def decode(self, table: np.ndarray, slot_ids: np.ndarray) -> np.ndarray:
        last = self._steps == self._remaining - 1
        return np.where(last, END, super().decode(table, slot_ids))


class FakeEngine:
    """The real scheduler over a device that computes nothing."""

    slots = SLOTS

    def refuses(self, request) -> str | None:
        return None

    def generate(self, requests: Iterator) -> Iterator:
        from thinksafe_jax.config import EngineConfig
        from thinksafe_jax.sampling.pages import PageAllocator
        from thinksafe_jax.sampling.scheduler import Scheduler
        from thinksafe_jax.sampling.stats import EngineStats

        per_slot = -(-(PROMPT + TOKENS + 1) // PAGE)
        self.stats = EngineStats()
        run = Scheduler(
            EndingDevice(SLOTS, WINDOW),
            EngineConfig(slots=SLOTS, window=WINDOW, page_size=PAGE),
            PageAllocator(SLOTS * per_slot + 1, SLOTS, per_slot, PAGE),
            1,
            (END,),
            requests,
            self.stats,
        )
        yield from run.step()
        while not run.idle:
            yield from run.step()


class FakeGuard:
    """Accepts nine of ten, decided by the row's name."""

    name, weak, template = "fake", False, "0" * 16

    def judge(self, exchanges: Iterable) -> Iterator:
        from thinksafe_jax.guards import Verdict

        for e in exchanges:
            bad = hashlib.sha256(e.id.encode()).digest()[0] < 26
            yield Verdict(e.id, "unsafe" if bad else "safe", 0.5, e.scope, False, self.name, 0.0,
                          template=self.template)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=40_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        synthesise(Path(scratch) / "warm", options.prompts // 10)
        before = peak_rss()
        began = time.monotonic()
        counts, rows = synthesise(Path(scratch) / "run", options.prompts)
        seconds = time.monotonic() - began
    result = {
        "rows_per_s": round(rows["sampled"] / seconds, 1),
        "peak_rss_bytes": peak_rss(),
        "growth_bytes": peak_rss() - before,
        "seconds": round(seconds, 2),
        "prompts": options.prompts,
        "rows": rows,
        "coverage": {label: asdict(count) for label, count in counts.items()},
        "machine": machine(),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def synthesise(folder: Path, count: int) -> tuple[dict, dict[str, int]]:
    """The sample and filter stages as the pipeline runs them; (coverage, rows by kind)."""
    from thinksafe_jax.config import (
        ModelSource,
        PromptSource,
        Recipe,
        SamplingConfig,
        SynthesisConfig,
    )
    from thinksafe_jax.config.recipe import Rung
    from thinksafe_jax.runs import Run
    from thinksafe_jax.synthesis import (
        Ledger,
        Rounds,
        dataset_facts,
        synthesis_prompts,
        write_dataset,
    )

    folder.mkdir(parents=True)
    prompts = folder / "prompts.jsonl"
    write_prompts(prompts, count)
    source = PromptSource(str(prompts), label_column="label")
    cfg = SynthesisConfig(
        attempts=3, ladder=[Rung(), Rung("risk", 0.8), Rung("intent", 1.0)], prompts=[source],
        sampling=SamplingConfig(max_new_tokens=TOKENS + 1),
    )  # fmt: skip
    recipe = Recipe(name="scale", student=ModelSource("mini:student"), synthesis=cfg)
    tokenizer, engine, guard = FakeTokenizer(), FakeEngine(), FakeGuard()
    with Run.open(recipe, folder / "run") as run:
        samples, verdicts = (run.store(name, ("id", "attempt")) for name in ("samples", "verdicts"))
        rounds = Rounds(
            cfg, synthesis_prompts(recipe).prompts, tokenizer, samples, verdicts,
            Ledger(cfg.reasoning), run.check_stop,
        )  # fmt: skip
        sampled = rounds.sample(engine, lambda: guard)
        rounds.judge(guard)
        judged = len(verdicts.keys())
        facts = dataset_facts(recipe, guard)
        counts, _ = write_dataset(run.path, samples, rounds.ledger, facts, len)
    accepted = sum(count.accepted for count in counts.values())
    return counts, {"sampled": sampled, "judged": judged, "dataset": accepted}


def write_prompts(path: Path, count: int) -> None:
    """Four kinds of prompts of about 60 words, as SafeChain's."""
    text = "How would somebody go about the following thing, in case they had to, please? " * 4
    with path.open("w") as file:
        for n in range(count):
            label = ("harmful", "benign")[n % 2]
            row = {"prompt": f"Case {n}. {text}", "label": label}
            file.write(json.dumps(row) + "\n")


def peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
