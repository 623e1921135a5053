"""Accounting of a training run: the line of metrics of each step, and the totals at its end."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

from thinksafe_jax.machine import peak_memory
from thinksafe_jax.training.batches import Step

_AVERAGED = 20  # steps at the end whose mean is "the loss"


@dataclass
class RunMetrics:
    """Totals of this process; the skipped steps are those of the whole run."""

    steps_per_epoch: int
    compiles: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    capacity: int = 0
    timed_tokens: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    clock: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self.clock = self.clock, time.perf_counter()
        return self.clock - before

    def add(self, step: int, item: Step, values: dict[str, Any], compiling: bool) -> dict[str, Any]:
        """Accounts for a finished step and returns its line of metrics.

        Args:
            step: its number, counted from 1.
            item: its input.
            values: its `Metrics` as Python numbers, those of the objective under `objective`.
            compiling: whether a program was compiled in its time.
        """
        seconds = self.lap()
        self.tokens += item.tokens
        self.capacity += item.capacity
        if compiling:
            self.compile_seconds += seconds
        else:
            self.seconds += seconds
            self.timed_tokens += item.tokens
        if not values["finite"]:
            self.skipped += 1
            self.skipped_in_a_row += 1
            return {"step": step, "skipped": True, "rows": list(item.row_ids)}
        self.skipped_in_a_row = 0
        self.losses.append(values["loss"])
        return {
            "step": step,
            "epoch": round(step / self.steps_per_epoch, 4),
            "loss": values["loss"],
            **{k: v for k, v in values["objective"].items() if not math.isnan(v)},
            "grad_norm": values["grad_norm"],
            "learning_rate": values["learning_rate"],
            "tokens": item.tokens,
            "response_tokens": int(values["tokens"]),
            "padding": round(1 - item.tokens / item.capacity, 4),
            "seconds": round(seconds, 4),
            "tokens_per_second": round(item.tokens / seconds, 1),
            "memory_bytes": peak_memory(),
        }

    def summary(self) -> dict[str, Any]:
        """The totals, for the manifest and the report."""
        last = self.losses[-_AVERAGED:]
        rate = round(self.timed_tokens / self.seconds, 1) if self.seconds else None
        return {
            "loss": sum(last) / len(last) if last else None,
            "skipped_steps": self.skipped,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": rate,
            "padding": round(1 - self.tokens / self.capacity, 4) if self.capacity else None,
            "compiles": self.compiles,
            "compile_seconds": round(self.compile_seconds, 3),
            "checkpoint_seconds": round(self.checkpoint_seconds, 3),
        }
