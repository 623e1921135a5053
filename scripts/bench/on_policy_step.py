# python scripts/bench/on_policy_step.py --json scripts/bench/results/on_policy_step.json
"""What a step of the on-policy loop costs beside its parts alone.

`mini-grpo` runs as `thinksafe run` runs it. By turns with each of its steps the parts are given
the same again, alone: the requests under the same adapter, which draw the same tokens, the guard's
exchanges, the optimiser step's arrays. So other work on the machine meets both sides alike. The
first steps are left out, and any in which a program is compiled, on either side: the sampler
compiles programs for narrower windows of the tail when it has seen that they pay.

    step_over_parts   seconds of the steps / seconds of sampling, judging and optimiser step, alone
    in_the_loop       seconds of a step by part: sampling and judging with their rows on the disk
    occupancy         share of the sampler's slots at work: what the tail of a short draw costs

`--processor-time` counts the processor's seconds of this process instead, which other work on the
machine hardly changes; waits for the disk are then in no figure.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from machine import machine

from thinksafe_jax import load_recipe, run_pipeline
from thinksafe_jax.compilations import compilations_so_far
from thinksafe_jax.guards.native import NativeGuard
from thinksafe_jax.on_policy import RolloutSampler
from thinksafe_jax.runs import Run
from thinksafe_jax.sampling import Engine
from thinksafe_jax.training import trainer

WARM_UP = 10  # steps
PARTS = ("sampling", "judging", "optimiser step")
Seconds = dict[str, float]


class Turns:
    """Steps of a run and their parts alone, by turns.

    Args:
        clock: gives seconds.

    Attributes:
        loop: seconds of each step: "whole", and by part.
        alone: seconds of the parts of each step, and the sampler's "occupancy".
        compiling: seconds of compilation of each step, in the loop and alone.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.loop: list[Seconds] = []
        self.alone: list[Seconds] = []
        self.compiling: list[float] = []
        self._compiled = 0.0  # seconds until the last turn
        self._given: dict[str, Any] = {}  # what each part of the step got
        self._seconds: Seconds = defaultdict(float)
        self._repeats = False
        self._began = self._dispatched = self._clock()

    def watch(self) -> None:
        """Notes what the loop gives to its parts, and takes the turn of the parts in its log."""
        self._keep(Engine, "generate")
        self._keep(NativeGuard, "judge")
        self._time(RolloutSampler, "draw", "sampling")
        self._time(RolloutSampler, "judge", "judging")
        make_step, log = trainer.make_step, Run.log

        def make_noting_step(*args: Any) -> Any:
            step = make_step(*args)

            def noting(state: Any, frozen: Any, batch: Any, key: Any) -> Any:
                self._dispatched = self._clock()
                state, metrics = step(state, frozen, batch, key)
                self._given["step"] = step, state, frozen, batch, key
                return state, metrics

            return noting

        def noting_log(run: Run, stage: str, **values: Any) -> None:
            log(run, stage, **values)
            if stage == "train" and "loss" in values:
                self._turn()

        # in place of what the loop calls: a user has no use for hooks at these two
        for owner, name, noting in (
            (trainer, "make_step", make_noting_step), (Run, "log", noting_log)
        ):  # fmt: skip
            setattr(owner, name, noting)

    def _keep(self, owner: Any, name: str) -> None:
        """Has a method note its object and what it takes from its argument."""
        method = getattr(owner, name)

        def noting(caller: Any, items: Iterable[Any]) -> Iterator[Any]:
            if self._repeats:
                return method(caller, items)
            taken: list[Any] = []
            self._given[name] = caller, taken
            return method(caller, (taken.append(item) or item for item in items))

        setattr(owner, name, noting)

    def _time(self, owner: Any, name: str, part: str) -> None:
        """Has a method add its seconds to those of a part of the loop."""
        method = getattr(owner, name)

        def timed(*args: Any, **more: Any) -> Any:
            began = self._clock()
            result = method(*args, **more)
            self._seconds[part] += self._clock() - began
            return result

        setattr(owner, name, timed)

    def _turn(self) -> None:
        """A step's numbers are there: now its parts alone, with what they were given."""
        now = self._clock()
        whole = {"whole": now - self._began, "optimiser step": now - self._dispatched}
        self._repeats = True
        engine, requests = self._given["generate"]  # it still has the adapter of this step
        guard, exchanges = self._given["judge"]
        step, state, *arrays = self._given["step"]
        copied = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        self.alone.append(
            {
                "sampling": self._timed(lambda: list(engine.generate(requests))),
                "judging": self._timed(lambda: list(guard.judge(exchanges))),
                "optimiser step": self._timed(lambda: step(copied, *arrays)),
                "occupancy": engine.stats.occupancy,
            }
        )
        self._repeats = False
        compiled = compilations_so_far().seconds
        self.compiling.append(compiled - self._compiled)
        self._compiled = compiled
        self.loop.append({**self._seconds, **whole})
        self._seconds.clear()
        self._began = self._clock()

    def _timed(self, run: Callable[[], Any]) -> float:
        began = self._clock()
        jax.block_until_ready(run())
        return self._clock() - began


def figures_of(turns: Turns) -> dict[str, Any]:
    """Means over the steps after the warm-up in which nothing was compiled."""
    steps = [n for n in range(WARM_UP, len(turns.loop)) if not turns.compiling[n]]
    loop, alone = [turns.loop[n] for n in steps], [turns.alone[n] for n in steps]
    sums = [sum(row[part] for part in PARTS) for row in alone]

    def mean(rows: list[Seconds], name: str) -> float:
        return round(sum(row[name] for row in rows) / len(rows), 4)

    in_the_loop = {part: mean(loop, part) for part in PARTS}
    whole = mean(loop, "whole")
    return {
        "steps": len(steps),
        "steps_that_compiled": len(turns.loop) - WARM_UP - len(steps),
        "compile_seconds": round(sum(turns.compiling[WARM_UP:]), 2),
        "seconds_a_step": whole,
        **{f"{part}, alone": mean(alone, part) for part in PARTS},
        "in_the_loop": {**in_the_loop, "rest": round(whole - sum(in_the_loop.values()), 4)},
        "step_over_parts": round(sum(row["whole"] for row in loop) / sum(sums), 3),
        "step_over_parts, median": round(
            median(row["whole"] / parts for row, parts in zip(loop, sums, strict=True)), 3
        ),
        "occupancy": round(mean(alone, "occupancy"), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--recipe", default="mini-grpo")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    clock = time.process_time if args.processor_time else time.perf_counter
    turns = Turns(clock)
    turns.watch()
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"on_policy.steps={args.steps}", "training.checkpoint_every=1000"]
        run_pipeline(load_recipe(args.recipe, changes), Path(folder), stages=["train"])
    figures = figures_of(turns)
    print(json.dumps(figures, indent=1))
    if args.json:
        kept = {"machine": machine(), "recipe": args.recipe, "clock": clock.__name__, **figures}
        args.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
