"""transformers as the sampler's rival: static batches, and its own continuous batching."""

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
