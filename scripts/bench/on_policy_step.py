# python scripts/bench/on_policy_step.py --json scripts/bench/results/on_policy_step.json
"""What a step of the on-policy loop costs beside its parts alone.

A few steps of `mini-grpo` run as `thinksafe run` runs them. What the loop gave its sampler, its
guard and its optimiser step is kept, and each is then given the same again, alone, in the same
process: the same requests under the same adapter draw the same tokens. The first steps, which
compile, are left out on both sides.

    step_over_parts   wall time of the steps / (sampling + judging + optimiser steps, alone)
    occupancy         share of the sampler's slots at work: what the tail of a short draw costs
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from machine import machine

from thinksafe_jax import load_recipe, run_pipeline
from thinksafe_jax.guards.native import NativeGuard
from thinksafe_jax.runs import Run
from thinksafe_jax.sampling import Engine
from thinksafe_jax.training import trainer

WARM_UP = 10  # steps; programs for narrower windows of the tail are compiled in the first few, too

given: dict[str, list[Any]] = defaultdict(list)  # what each part was given, a step each
ended: list[float] = []  # when the steps' numbers were there


def keep(owner: Any, name: str, kept: Callable[..., Any]) -> None:
    """Replaces a method by one that notes `kept(argument)`, and takes that as its argument."""
    method = getattr(owner, name)

    def noting(self: Any, argument: Any) -> Any:
        argument = kept(argument)
        given[name].append((self, argument))
        return method(self, argument)

    setattr(owner, name, noting)


def watch() -> None:
    """Notes what the loop's parts are given."""
    keep(Engine, "generate", list)
    keep(Engine, "update_adapter", lambda adapter: jax.tree.map(jnp.copy, adapter))
    keep(NativeGuard, "judge", list)
    make_step, log = trainer.make_step, Run.log

    def make_noting_step(*args: Any) -> Any:
        step = make_step(*args)

        def noting(state: Any, frozen: Any, batch: Any, key: Any) -> Any:
            given["step"].append((step, frozen, batch, key))
            state, metrics = step(state, frozen, batch, key)
            given["state"] = [state]
            return state, metrics

        return noting

    def noting_log(self: Run, stage: str, **values: Any) -> None:
        if stage == "train" and "loss" in values:
            ended.append(time.perf_counter())
        log(self, stage, **values)

    # in place of what the loop calls: a user has no use for hooks at these two
    trainer.make_step, Run.log = make_noting_step, noting_log  # pyright: ignore[reportAttributeAccessIssue]


def seconds(run: Callable[..., Any], *args: Any) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - began


def drained(part: Callable[[Any], Any], argument: Any) -> list[Any]:
    return list(part(argument))


def alone(steps: int) -> list[dict[str, float]]:
    """Seconds of each part of each step, and the sampler's occupancy."""
    calls = {name: list(given[name]) for name in ("generate", "update_adapter", "judge", "step")}
    state, rows = given["state"][0], []
    for n in range(WARM_UP, steps):
        engine, requests = calls["generate"][n]
        engine.update_adapter(calls["update_adapter"][n][1])
        guard, exchanges = calls["judge"][n]
        step, frozen, batch, key = calls["step"][n]
        copied = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        row = {
            "sampling": seconds(drained, engine.generate, requests),
            "judging": seconds(drained, guard.judge, exchanges),
            "optimiser step": seconds(step, copied, frozen, batch, key),
            "occupancy": engine.stats.occupancy,
        }
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--recipe", default="mini-grpo")
    parser.add_argument("--steps", type=int, default=25)
    args = parser.parse_args()
    watch()
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"on_policy.steps={args.steps}", "training.checkpoint_every=1000"]
        run_pipeline(load_recipe(args.recipe, changes), Path(folder), stages=["train"])
        whole = [b - a for a, b in pairwise(ended)][WARM_UP - 1 :]
        parts = alone(args.steps)
    names = ("sampling", "judging", "optimiser step")
    sums = {name: sum(row[name] for row in parts) for name in names}
    figures = {
        "steps": len(whole),
        "seconds_a_step": round(sum(whole) / len(whole), 4),
        **{f"{name}, alone": round(sums[name] / len(parts), 4) for name in names},
        "step_over_parts": round(sum(whole) / sum(sums.values()), 3),
        "occupancy": round(sum(row["occupancy"] for row in parts) / len(parts), 3),
    }
    print(json.dumps(figures, indent=1))
    if args.json:
        kept = {"machine": machine(), "recipe": args.recipe, **figures}
        args.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
