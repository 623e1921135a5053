"""Whether the disks have room for what a run will write and fetch."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from thinksafe_jax.config import Recipe
from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.sharding import adapter_tensors, parameter_tensors
from thinksafe_jax.storage import cache_folder, free_bytes
from thinksafe_jax.training import lora_config, make_optimizer

_FLOAT32 = 4  # bytes
_TOKEN = 4  # bytes of text, about


def training_bytes(recipe: Recipe, cfg: ModelConfig) -> int:
    """Bytes of checkpoints and export: all that are kept, and one that is being written."""
    training = recipe.training
    full = training.full_finetune
    tensors = parameter_tensors(cfg) if full else adapter_tensors(cfg, lora_config(training))
    shapes = {".".join(k): jax.ShapeDtypeStruct(t.shape, jnp.float32) for k, t in tensors.items()}
    state = jax.eval_shape(make_optimizer(training).init, shapes)
    trained = _size(shapes)
    dtype = jnp.dtype(recipe.student.dtype if full else jnp.float32)
    export = trained // _FLOAT32 * dtype.itemsize
    return (training.keep_checkpoints + 1) * (trained + _size(state)) + export


def _size(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def samples_bytes(prompts: int, attempts: int, tokens: int) -> int:
    """Bytes of the rows of samples/ at most, every response at its longest."""
    return prompts * attempts * tokens * _TOKEN


def require_room(needs: Mapping[Path, int]) -> None:
    """Refuses where a disk has less free than all that goes to it.

    Args:
        needs: {folder: bytes}; folders on one disk are added up.

    Raises:
        EnvironmentFault: with the figures, and where to change the folder.
    """
    by_disk: dict[int, dict[Path, int]] = {}
    for folder, size in needs.items():
        by_disk.setdefault(_disk(folder), {})[folder] = size
    for folders in by_disk.values():
        needed, free = sum(folders.values()), min(map(free_bytes, folders))
        if needed > free:
            named = ", ".join(f"{folder} {size / 1e9:,.1f}" for folder, size in folders.items())
            raise EnvironmentFault(
                f"disk: {needed / 1e9:,.1f} GB are needed ({named}), {free / 1e9:,.1f} GB are "
                "free; make room, or use another disk: --run-dir, HF_HOME, THINKSAFE_CACHE"
            )


def download_folder(name: str) -> Path:
    """Where the weights of a model on the Hub, or in a bucket, are kept."""
    if "://" in name:
        return cache_folder()
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _disk(folder: Path) -> int:
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return os.stat(place).st_dev
