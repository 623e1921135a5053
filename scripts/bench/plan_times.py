"""How long `thinksafe plan` takes for every shipped recipe on every mesh, and who compiled.

    python scripts/bench/plan_times.py --json scripts/bench/results/plan_times.json

    processor_seconds   user and system, of all threads: start, imports, planning, compiling, as if
                        nothing were kept. On two cores that nobody else uses it takes no longer
    compilers           whose figures the stages have
    fits                as the exit code says; what does not fit is timed as well
    refused             why there is no plan: facts of a model that only the Hub has, and no network

A process for each mesh, as JAX counts its simulated devices once. Many recipes have programs in
common: each is compiled once here, and what that took counts in each plan that asks for it. Rows
are written mesh by mesh, and the same command goes on. Recipes that differ in names, prompts and
rates alone are planned once (`same_as`). JAX's own cache is off.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from machine import machine

from thinksafe_jax.config import Recipe, load_recipe
from thinksafe_jax.errors import ThinkSafeError, first_line
from thinksafe_jax.planning import compiler
from thinksafe_jax.planning.recipe_plan import plan_recipe
from thinksafe_jax.sharding import load_mesh

CONFIGS = Path(__file__).parents[2] / "configs"
LIMIT = 60.0  # processor seconds


class Meter:
    """Compiles each program once, and counts for every plan what that took.

    Attributes:
        again: processor seconds that programs took which were compiled for an earlier plan.
    """

    def __init__(self, folder: Path, compile_: Callable[[Any], Any]):
        self.again = 0.0
        self._folder, self._compile = folder, compile_

    def __call__(self, program: Any) -> Any:
        """What the compiler gives for the program; the folder keeps it for the next mesh."""
        began = time.process_time()
        facts = [program.function.__name__, program.arguments, program.statics]
        if not program.statics:  # a closure: what it does is not in its arguments
            facts.append(program.function.lower(*program.arguments).as_text())
        name = hashlib.sha256(str(facts).encode()).hexdigest()
        file = self._folder / name
        if file.exists():
            seconds, output = pickle.loads(file.read_bytes())
            self.again += seconds - (time.process_time() - began)
            return output
        output = self._compile(program)
        file.write_bytes(pickle.dumps((time.process_time() - began, output)))
        return output


def programs_of(recipe: Recipe) -> str:
    """What the programs of a recipe's plan follow from."""
    plain = dataclasses.asdict(recipe)
    training = {**plain["training"]}
    for name in ("learning_rate", "epochs", "warmup_ratio", "weight_decay"):
        training.pop(name)
    synthesis, on_policy = plain["synthesis"], plain["on_policy"]
    rest = [plain["student"], plain["guard"], plain["engine"], training]
    rest += [synthesis["teacher"], synthesis["sampling"], synthesis["attempts"] > 1]
    rest += [on_policy["method"], on_policy["teacher"], plain["evaluation"]["sampling"]]
    return json.dumps(rest, sort_keys=True, default=str)


def planned(mesh: str, names: list[str], folder: Path) -> list[dict]:
    """A row for each recipe on a mesh, from a process of their own."""
    if not names:
        return []
    command = [sys.executable, __file__, "--plan", mesh, str(folder), *names]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    subprocess.run(command, env=environment, check=True)
    return list(map(json.loads, (folder / f"{mesh}.jsonl").read_text().splitlines()))


def plan_mesh(mesh: str, folder: Path, names: list[str]) -> None:
    """Plans the recipes on a mesh, in this process; the folder gets a line of JSON for each."""
    meter = Meter(folder, compiler.compiler_output)
    compiler.compiler_output = meter
    start = time.process_time()
    config = load_mesh(mesh)
    for name in names:
        began, meter.again = time.process_time(), 0.0
        row: dict[str, Any] = {"recipe": name, "mesh": mesh}
        try:
            plan = plan_recipe(load_recipe(CONFIGS / f"recipes/{name}.yaml"), config)
            compilers = {stage.compiler for stage in plan.stages if stage.compiler}
            row |= {"fits": plan.fits, "compilers": sorted(compilers)}
        except ThinkSafeError as error:
            row |= {"fits": False, "refused": first_line(error)}
        seconds = start + time.process_time() - began + meter.again
        row["processor_seconds"] = round(seconds, 1)
        jax.clear_caches()
        with (folder / f"{mesh}.jsonl").open("a") as file:
            print(json.dumps(row), file=file)


def distinct(names: list[str]) -> dict[str, str]:
    """{recipe: the first that has the same programs}."""
    first: dict[str, str] = {}
    recipes = {name: load_recipe(CONFIGS / f"recipes/{name}.yaml") for name in names}
    return {name: first.setdefault(programs_of(recipe), name) for name, recipe in recipes.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True)
    for kind in ("recipes", "mesh"):
        files = sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))
        parser.add_argument(f"--{kind}", nargs="+", default=files)
    asked = parser.parse_args()
    same = distinct(asked.recipes)
    kept = json.loads(asked.json.read_text())["rows"] if asked.json.exists() else []
    rows = {(row["recipe"], row["mesh"]): row for row in kept}
    with tempfile.TemporaryDirectory(prefix="plan-times-") as folder:
        for mesh in asked.mesh:
            left = [n for n in dict.fromkeys(same.values()) if (n, mesh) not in rows]
            rows |= {(row["recipe"], mesh): row for row in planned(mesh, left, Path(folder))}
            for name, first in same.items():
                rows[name, mesh] = rows[first, mesh] | {"recipe": name}
                if first != name:
                    rows[name, mesh]["same_as"] = first
            write(asked.json, list(rows.values()))
    slow = [row for row in rows.values() if row["fits"] and row["processor_seconds"] > LIMIT]
    sys.exit(f"{len(slow)} of {len(rows)} over {LIMIT:.0f} s: {slow}" if slow else 0)


def write(file: Path, rows: list[dict]) -> None:
    """All rows, and the longest of them on the terminal."""
    lines = ",\n".join(f" {json.dumps(row)}" for row in rows)
    head = json.dumps({"machine": machine()})[1:-1]
    file.write_text(f'{{{head}, "rows": [\n{lines}\n]}}\n')
    row = max(rows, key=lambda row: row["processor_seconds"] if row["fits"] else 0.0)
    print(f"{len(rows)} plans, {sum(r['fits'] for r in rows)} fit; the longest: {row}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        plan_mesh(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        main()
