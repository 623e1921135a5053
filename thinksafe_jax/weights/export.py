"""From parameters back to a Hugging Face checkpoint. Adapters are written by `peft`."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from thinksafe_jax.models import ModelConfig, Params
from thinksafe_jax.weights.atomic_folder import (
    config_of_plain_weights,
    copy_files,
    write_json,
    write_text,
    written_aside,
)
from thinksafe_jax.weights.gather import on_host, written_by_first
from thinksafe_jax.weights.names import Entry, at, entries
from thinksafe_jax.weights.safetensors import TensorSource, sync_file, write_file, write_unsynced
from thinksafe_jax.weights.validate import INDEX

MAX_SHARD = 5 * 10**9  # bytes


def save_checkpoint(
    out: str | Path,
    params: Params,
    cfg: ModelConfig,
    config_json: dict[str, Any],
    *,
    tokenizer_from: str | Path | None = None,
    max_shard: int = MAX_SHARD,
    card: str | None = None,
) -> None:
    """Writes a Hugging Face checkpoint: config.json, safetensors (with index), tokenizer files.

    With parameters over several processes all must call it; process 0 writes, one tensor at a time.

    Args:
        out: directory, replaced when everything is on disk.
        params: the parameters, each in the dtype to be stored.
        config_json: the model's config.json; its dtype is set to what is stored.
        tokenizer_from: directory whose tokenizer and generation files are copied.
        max_shard: bytes in one safetensors file.
        card: text of README.md.

    Raises:
        InputError: `out` holds something else than a model.
        EnvironmentFault: the disk is full or cannot be written; `out` is as before.
    """
    table = list(entries(cfg))
    arrays = (on_host(at(params, e.path), e.layer).reshape(e.param.hf_shape) for e in table)
    with written_by_first(Path(out), arrays) as gathered:
        if jax.process_index() == 0:
            sources = [
                TensorSource(e.hf_name, e.param.hf_shape, _dtype(params, e), gathered.__next__)
                for e in table
            ]
            with written_aside(Path(out), sum(source.nbytes for source in sources)) as folder:
                write_shards(folder, sources, max_shard)
                key = (
                    "torch_dtype" if "torch_dtype" in config_json else "dtype"
                )  # transformers 4, 5
                config = {**config_json, key: str(params["embed"].dtype)}
                write_json(folder / "config.json", config_of_plain_weights(config))
                if tokenizer_from is not None:
                    copy_files(Path(tokenizer_from), folder)
                if card is not None:
                    write_text(folder / "README.md", card)


def _dtype(params: Params, entry: Entry) -> np.dtype:
    return np.dtype(at(params, entry.path).dtype)


def write_shards(folder: Path, sources: list[TensorSource], max_shard: int) -> None:
    """model.safetensors, or shards of at most `max_shard` bytes with their index."""
    shards: list[list[TensorSource]] = [[]]
    for source in sources:
        if shards[-1] and sum(s.nbytes for s in shards[-1]) + source.nbytes > max_shard:
            shards.append([])
        shards[-1].append(source)
    if len(shards) == 1:
        write_file(folder / "model.safetensors", shards[0])
        return
    weight_map = {}
    with ThreadPoolExecutor(1, "sync") as pool:  # the disk ends one shard while the next is written
        jobs = []
        for n, shard in enumerate(shards, start=1):
            name = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
            write_unsynced(folder / name, shard)
            jobs.append(pool.submit(sync_file, folder / name))
            weight_map |= {source.name: name for source in shard}
        for job in jobs:
            job.result()
    elements = sum(math.prod(source.shape) for source in sources)
    metadata = {"total_parameters": elements, "total_size": sum(s.nbytes for s in sources)}
    write_json(folder / INDEX, {"metadata": metadata, "weight_map": weight_map})
