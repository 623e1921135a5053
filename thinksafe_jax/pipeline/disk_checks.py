"""Whether the disks have room for what a run will write and fetch."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from thinksafe_jax.config import Recipe
from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.machine import cache_folder
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.sharding import adapter_tensors, parameter_tensors
from thinksafe_jax.storage import existing_place, free_bytes
from thinksafe_jax.training import lora_config, make_optimizer

_FLOAT32 = 4  # bytes
_TOKEN = 4  # bytes of text, about


def checkpoint_bytes(recipe: Recipe, cfg: ModelConfig, folder: Path) -> int:
    """Bytes that checkpoints will still need: all that are kept, and one that is being written.

    Args:
        folder: of the checkpoints; those that lie there are replaced in time, one by one.
    """
    trained = _trained(recipe, cfg)
    size = _size(trained) + _size(jax.eval_shape(make_optimizer(recipe.training).init, trained))
    files = [file for file in folder.rglob("*") if file.is_file()]
    there = sum(file.stat().st_size for file in files)
    return max(size, (recipe.training.keep_checkpoints + 1) * size - there)


def export_bytes(recipe: Recipe, cfg: ModelConfig) -> int:
    """Bytes of the adapter, or of the whole model where all of it is trained."""
    dtype = jnp.dtype(recipe.student.dtype if recipe.training.full_finetune else jnp.float32)
    return _size(_trained(recipe, cfg)) // _FLOAT32 * dtype.itemsize


def _trained(recipe: Recipe, cfg: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    training = recipe.training
    lora = lora_config(training)
    tensors = parameter_tensors(cfg) if training.full_finetune else adapter_tensors(cfg, lora)
    return {".".join(k): jax.ShapeDtypeStruct(t.shape, jnp.float32) for k, t in tensors.items()}


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
            named = ", ".join(f"{folder} {size_text(size)}" for folder, size in folders.items())
            raise EnvironmentFault(
                f"disk: {size_text(needed)} are needed ({named}), {size_text(free)} are free; make "
                "room, or use another disk: --run-dir, HF_HOME, THINKSAFE_CACHE"
            )


def size_text(size: float) -> str:
    """Bytes in the unit that leaves something to read: 12 MB, 3.4 GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def download_folder(name: str) -> Path:
    """Where the weights of a model on the Hub, or in a bucket, are kept."""
    if "://" in name:
        return cache_folder()
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _disk(folder: Path) -> int:
    return os.stat(existing_place(folder)).st_dev
