# PYTHON scripts/bench/rival_openvino.py MODEL REQUESTS.json SLOTS, run by generate.py --openvino
"""OpenVINO GenAI's continuous batching on the same checkpoint, in an environment of its own.

    python -m venv openvino && openvino/bin/pip install openvino-genai 'optimum-intel[openvino]'

Takes runs from its input, a line of JSON each ({"dtype": "f32", "greedy": false}), and answers with
a line: seconds of the clock and of the processor, and the tokens of each request. The first run of
a dtype also compiles. Keys and values are kept in the dtype of the arithmetic, as ours are.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import openvino
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig
from optimum.intel import OVModelForCausalLM


def convert(folder: Path) -> Path:
    """A folder beside the checkpoint with the model as OpenVINO reads it, in float32."""
    out = folder.with_name(f"{folder.name}-openvino")
    if not out.exists():
        model = OVModelForCausalLM.from_pretrained(
            folder, export=True, load_in_8bit=False, compile=False
        )
        model.save_pretrained(out)
    return out


def pipeline(folder: Path, slots: int, dtype: str) -> ContinuousBatchingPipeline:
    scheduler = SchedulerConfig()
    scheduler.max_num_seqs, scheduler.cache_size = slots, 1  # GB
    scheduler.enable_prefix_caching = False
    properties = {
        "INFERENCE_PRECISION_HINT": dtype,
        "KV_CACHE_PRECISION": dtype,
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
    }
    return ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)


def options(length: int, greedy: bool) -> GenerationConfig:
    config = GenerationConfig()
    config.max_new_tokens, config.ignore_eos = length, True
    config.set_eos_token_id(0)  # unset it is -1, which is refused
    config.do_sample = not greedy
    if not greedy:
        config.temperature, config.top_p, config.top_k = 0.6, 0.95, 20
    return config


def run(pipe: ContinuousBatchingPipeline, requests: list[dict], greedy: bool) -> dict:
    prompts = [openvino.Tensor(np.array([r["prompt_ids"]], np.int64)) for r in requests]
    configs = [options(r["max_new_tokens"], greedy) for r in requests]
    began, worked = time.perf_counter(), time.process_time()
    done = pipe.generate(prompts, configs)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    tokens = [list(row.m_generation_ids[0]) for row in done]
    asked = [r["max_new_tokens"] for r in requests]
    assert list(map(len, tokens)) == asked, "a request ended early"
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": tokens}


def main() -> None:
    folder, requests, slots = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")  # what libraries print must not come between them
    os.dup2(2, 1)
    asked, model, pipes = json.loads(requests.read_text()), convert(folder), {}
    for line in sys.stdin:
        wanted = json.loads(line)
        dtype = wanted["dtype"]
        if dtype not in pipes:
            pipes[dtype] = pipeline(model, slots, dtype)
        print(json.dumps(run(pipes[dtype], asked, wanted["greedy"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
