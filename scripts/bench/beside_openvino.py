# python scripts/bench/beside_openvino.py PYTHON --json scripts/bench/results/openvino.json
"""The sampler beside OpenVINO GenAI's continuous batching, which has a CPU's own kernels.

PYTHON is one that has it: `python -m venv openvino`, then
`openvino/bin/pip install openvino-genai 'optimum-intel[openvino]'`.

    vs_openvino                     useful tokens a second over its, in float32 and 16 slots each,
                                    on workload T of generate.py, by turns
    vs_openvino_bfloat16            over its in bfloat16
    vs_openvino_by_processor_time   useful tokens over the seconds that the processor worked: other
                                    programs on the machine touch this little, and under
                                    `taskset -c 0` it is the work of one thread
    openvino_same_greedy            share of the requests that both give the same greedy tokens
    step_us                         microseconds of one of our decode steps, by what they go to
"""

import argparse
import dataclasses
import json
import os
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import jax
import numpy as np
from generate_sections import SHAPE_T, tokens_of, workload
from machine import machine
from rivals import OpenVino
from stepper import Stepper
from workloads import long_tail

from thinksafe_jax.sampling import Engine, Request, decode

REPEATS = 5
LIVE = 64  # tokens in the cache of every slot where a step is looked into
WINDOWS = 8  # of which it is the mean


def beside(python: str, scratch: Path, engine: Engine, requests: list[Request]) -> dict:
    """Both sides by turns; the first turn is not counted."""
    asked = scratch / "requests.json"
    lengths = [r.sampling.max_new_tokens for r in requests]
    rows = [
        {"prompt_ids": r.prompt_ids, "max_new_tokens": n}
        for r, n in zip(requests, lengths, strict=True)
    ]
    asked.write_text(json.dumps(rows))
    with OpenVino(python, scratch / "T", asked, SHAPE_T.slots) as rival:
        ours, theirs = tokens_of(engine, greedy(requests)), rival.greedy()
        same = [ours[r.id, 0] == row for r, row in zip(requests, theirs, strict=True)]
        sides = (lambda: clocked(engine, requests), rival.f32, rival.bf16)
        turns = [[side() for side in sides] for _ in range(REPEATS + 1)][1:]
    of_sides = np.median(sum(lengths) / np.array(turns), axis=0)  # [side, clock or processor]
    (ours_s, ours_cpu), (f32_s, f32_cpu), (bf16_s, _) = of_sides.tolist()
    return {
        "vs_openvino": ours_s / f32_s,
        "vs_openvino_bfloat16": ours_s / bf16_s,
        "vs_openvino_by_processor_time": ours_cpu / f32_cpu,
        "tokens_per_s": ours_s,
        "tokens_per_processor_s": ours_cpu,
        "openvino_tokens_per_s": f32_s,
        "openvino_tokens_per_processor_s": f32_cpu,
        "openvino_bfloat16_tokens_per_s": bf16_s,
        "openvino_same_greedy": sum(same) / len(same),
    }


def greedy(requests: list[Request]) -> list[Request]:
    return [
        dataclasses.replace(r, sampling=dataclasses.replace(r.sampling, temperature=0.0))
        for r in requests
    ]


def clocked(engine: Engine, requests: list[Request]) -> tuple[float, float]:
    """Seconds of the clock, and of the processor in all threads."""
    began, worked = time.perf_counter(), time.process_time()
    list(engine.generate(requests))
    return time.perf_counter() - began, time.process_time() - worked


def kind(hlo_line: str) -> str:
    """What an operation of the decode program is for, by its name there and in the source."""
    source = re.search(r'op_name="([^"]*)"', hlo_line)
    path = source[1].partition("/closed_call/")[2] if source else ""
    if "/while/body/" in path or "/branch_" in path:
        return ""  # part of a loop or a branch, which is counted whole
    product = "ynn_fusion" in hlo_line.split(" = ")[0] or " dot(" in hlo_line
    if product and not re.search(r"reduce|while|cond", path):
        return "lm head" if path.startswith("sample") else "products of the layers"
    if path == "attention/while":
        return "attention over the cache"
    return "draw" if path.startswith("sample") else "all else"


def step_us(engine: Engine) -> dict[str, float]:
    """A decode step of slots that hold LIVE tokens, by `kind`: operations at their median."""
    stepper = Stepper(engine, LIVE)
    device = stepper.device
    lowered = decode.lower(
        device.params, device.cache, device.slots, stepper.table, spec=device.spec
    )
    text = str(lowered.compile().as_text())
    named = re.findall(r"^\s*(?:ROOT )?%?(\S+) = (.*)$", text, re.MULTILINE)
    kinds = {name: kind(f"{name} = {rest}") for name, rest in named}
    stepper.seconds()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(WINDOWS):
                stepper.seconds()
        file = next(Path(folder).rglob("*.xplane.pb"))
        profile = jax.profiler.ProfileData.from_file(str(file))
        durations = defaultdict(list)
        for plane in profile.planes:
            for line in plane.lines:
                for event in line.events:
                    durations[event.name].append(event.duration_ns)
    steps, total = WINDOWS * engine.config.window, defaultdict(float)
    for name, of_runs in durations.items():
        if kinds.get(name):
            total[kinds[name]] += median(of_runs) * len(of_runs) / steps / 1e3
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("python", help="a Python that has openvino-genai and optimum-intel")
    parser.add_argument("--json", type=Path, help="where to keep the results")
    args = parser.parse_args()
    processors, here = len(os.sched_getaffinity(0)), machine()
    here["busy"] = here["load_average"][0] > 1
    with tempfile.TemporaryDirectory() as scratch:
        cfg, params = workload("T", Path(scratch))
        engine = Engine(cfg, params, SHAPE_T, eos_ids=())
        engine.warm_up(64)
        requests = long_tail(64, cfg.vocab_size)
        results = beside(args.python, Path(scratch), engine, requests)
        results["step_us"] = step_us(Engine(cfg, params, SHAPE_T, eos_ids=()))
    print(json.dumps(results, indent=2))
    if args.json:
        kept = json.loads(args.json.read_text()) if args.json.exists() else {}
        kept[f"{processors} processor{'s' * (processors > 1)}"] = {
            "machine": here,
            "results": results,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
