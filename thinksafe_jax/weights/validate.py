"""What a checkpoint directory holds, by its headers, and whether that fits its config.json."""

import json
from pathlib import Path

import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.weights.names import entries
from thinksafe_jax.weights.safetensors import TensorRef, read_header

INDEX = "model.safetensors.index.json"
_DERIVED = ".rotary_emb.inv_freq"  # a buffer that old exports carry; recomputed from config.json
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def checkpoint_tensors(directory: Path) -> dict[str, TensorRef]:
    """Every tensor of the checkpoint, headers only.

    Raises:
        InputError: no safetensors, a broken or missing shard, a tensor in two shards, an index
            that leads out of the folder or promises what its shards lack.
    """
    index = directory / INDEX
    if index.exists():
        return _read_index(directory, index)
    single = directory / "model.safetensors"
    if single.exists():
        return read_header(single)
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt*")):
        raise InputError(
            f"{directory}: only pickled weights (pytorch_model.bin), which are never opened. "
            "Convert them to safetensors with transformers' save_pretrained"
        )
    raise InputError(f"{directory}: no model.safetensors and no {INDEX}")


def _read_index(directory: Path, index: Path) -> dict[str, TensorRef]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: not a safetensors index ({error})") from None
    for shard in shards:
        _refuse_traversal(directory, index, shard)
    gone = [shard for shard in shards if not (directory / shard).exists()]
    if gone:
        raise InputError(f"{index}: missing shards: {some(gone)}. Download them again")
    refs: dict[str, TensorRef] = {}
    twice = []
    for shard in shards:
        for name, ref in read_header(directory / shard).items():
            if name in refs:
                twice.append(f"{name} is in both {refs[name].file.name} and {shard}")
            refs[name] = ref
    if twice:
        raise InputError(f"{index}: {some(twice)}. Keep one copy")
    absent = sorted(name for name in weight_map if name not in refs)
    if absent:
        raise InputError(f"{index}: promises tensors that no shard holds: {some(absent)}")
    return refs


def _refuse_traversal(directory: Path, index: Path, shard: str) -> None:
    plain = isinstance(shard, str) and "\0" not in shard and Path(shard).name == shard != ".."
    if not plain or not shard:
        raise InputError(f"{index}: shard {shard!r} is no plain file name; refused")
    root = directory.resolve()
    if root.parent.name == "snapshots":  # a Hub cache links its shards to ../../blobs
        root = root.parent.parent
    target = (directory / shard).resolve()
    if not target.is_relative_to(root):
        raise InputError(
            f"{index}: shard {shard} is a link out of the folder, to {target}; refused. Copy the "
            "file in its place"
        )


def check_totality(directory: Path, cfg: ModelConfig) -> dict[str, TensorRef]:
    """Headers of the checkpoint, each key needed once and each parameter filled once.

    Raises:
        InputError: every missing, unknown and misshapen tensor, in one message.
    """
    refs = checkpoint_tensors(directory)
    wanted = {entry.hf_name: entry for entry in entries(cfg)}
    problems = []
    missing = [name for name in wanted if name not in refs]
    if missing:
        problems.append(f"missing: {some(missing)}")
    if _HEAD in missing:
        problems.append(
            f"tie_word_embeddings is false in config.json, yet there is no {_HEAD}; set it to true "
            "if the model shares its embedding"
        )
    extra = [n for n in refs if n not in wanted and not n.endswith(_DERIVED)]
    if cfg.tie_word_embeddings and _HEAD in extra and _EMBED in refs:
        extra.remove(_HEAD)
        if not _same(refs[_HEAD], refs[_EMBED]):
            problems.append(
                f"tie_word_embeddings is true in config.json, but {_HEAD} differs from {_EMBED}; "
                "set it to false"
            )
    if extra:
        problems.append(f"unknown: {some(sorted(extra))}")
    shapes = [
        f"{name} is {list(refs[name].shape)}, config.json makes it {list(entry.param.hf_shape)}"
        + (" (vocab_size, hidden_size)" if name in (_EMBED, _HEAD) else "")
        for name, entry in wanted.items()
        if name in refs and refs[name].shape != entry.param.hf_shape
    ]
    if shapes:
        problems.append(f"shapes: {some(shapes)}")
    if problems:
        raise InputError(f"{directory}: the weights do not fit config.json. " + "; ".join(problems))
    return refs


def some(names: list[str], most: int = 8) -> str:
    """The first few of many names."""
    tail = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + tail


def _same(one: TensorRef, other: TensorRef) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one.array, other.array))
