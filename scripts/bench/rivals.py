"""The sampler's rivals: transformers in static batches and in its own continuous ones, OpenVINO."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from thinksafe_jax.sampling import Request


def load(folder: Path) -> Any:
    logging.set_verbosity_error()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def generate(model: Any, requests: list[Request], batch: int, threads: int) -> float:
    """Useful tokens a second of `generate` in static batches, left padded.

    Useful are the tokens that each request asked for; a batch runs until its longest is done.
    """
    torch.set_num_threads(threads)
    began = time.perf_counter()
    for start in range(0, len(requests), batch):
        group = requests[start : start + batch]
        width = max(len(r.prompt_ids) for r in group)
        ids = torch.zeros((len(group), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(group):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = 1
        most = max(r.sampling.max_new_tokens for r in group)
        with torch.no_grad():
            model.generate(ids, attention_mask=mask, generation_config=_config(group[0], most))
    return _useful(requests) / (time.perf_counter() - began)


def continuous(model: Any, requests: list[Request], threads: int) -> float:
    """Useful tokens a second of transformers' continuous batching over its paged cache."""
    torch.set_num_threads(threads)
    config = _config(requests[0], max(r.sampling.max_new_tokens for r in requests))
    with model.continuous_batching_context_manager(generation_config=config) as manager:
        began = time.perf_counter()
        for request in requests:
            most = request.sampling.max_new_tokens
            manager.add_request(list(request.prompt_ids), request.id, max_new_tokens=most)
        done = tokens = 0
        while done < len(requests):
            result = manager.get_result(timeout=60)
            if result is not None and result.is_finished():
                done += 1
                tokens += len(result.generated_tokens)
        seconds = time.perf_counter() - began
    assert tokens == _useful(requests), (tokens, _useful(requests))
    return tokens / seconds


def _config(request: Request, most: int) -> GenerationConfig:
    s = request.sampling
    return GenerationConfig(
        max_new_tokens=most, do_sample=True, temperature=s.temperature, top_p=s.top_p,
        top_k=s.top_k, eos_token_id=-1, pad_token_id=0, use_cache=True,
    )  # fmt: skip


def _useful(requests: list[Request]) -> int:
    return sum(r.sampling.max_new_tokens for r in requests)


class OpenVino:
    """OpenVINO GenAI's continuous batching, in a process of an environment of its own.

    Args:
        python: of that environment; rival_openvino.py says what it has.
        folder: the checkpoint.
        requests: JSON file, a list of {"prompt_ids": ids, "max_new_tokens": count}.
        slots: sequences that it decodes at a time.
    """

    def __init__(self, python: str, folder: Path, requests: Path, slots: int):
        script = Path(__file__).with_name("rival_openvino.py")
        command = [python, script, folder, requests, slots]
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "OpenVino":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, which ends it

    def greedy(self) -> list[list[int]]:
        """The tokens of each request in float32, each the likeliest."""
        return self._run(dtype="f32", greedy=True)["tokens"]

    def f32(self) -> tuple[float, float]:
        """Seconds of the clock and of the processor for all requests, sampled in float32."""
        return self._seconds("f32")

    def bf16(self) -> tuple[float, float]:
        """The same in bfloat16, where the processor has it."""
        return self._seconds("bf16")

    def _seconds(self, dtype: str) -> tuple[float, float]:
        answer = self._run(dtype=dtype, greedy=False)
        return answer["seconds"], answer["cpu_seconds"]

    def _run(self, **run: object) -> dict:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(run) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"rival_openvino.py ended with exit code {self._process.wait()}")
        return json.loads(line)
