"""What a checkpoint directory holds, by its headers, and whether that fits its config.json."""

import logging
from pathlib import Path

import numpy as np

from thinksafe_jax.errors import InputError, listed, quoted
from thinksafe_jax.json_files import MEBIBYTE, read_json_object
from thinksafe_jax.models import ModelConfig
from thinksafe_jax.weights.links import is_plain_name, refuse_link_out
from thinksafe_jax.weights.names import entries
from thinksafe_jax.weights.safetensors import TensorRef, read_header

log = logging.getLogger(__name__)
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# the weights once more, under the names of Mistral's own programs; nothing here reads them
SECOND_COPY = "consolidated*.safetensors"
_DERIVED = ".rotary_emb.inv_freq"  # a buffer that old exports carry; recomputed from config.json
_LARGEST_INDEX = 256 * MEBIBYTE  # that of DeepSeek-V3, of 91,991 tensors, has 9
_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def checkpoint_tensors(directory: Path) -> dict[str, TensorRef]:
    """Every tensor of the checkpoint, headers only.

    Raises:
        InputError: no safetensors, a broken or missing shard, a tensor in two shards, an index
            that leads out of the folder or promises what its shards lack.
    """
    index, single = directory / INDEX, directory / SINGLE
    if index.exists():
        return _read_index(directory, index)
    if single.exists():
        refuse_link_out(single)
        return read_header(single)
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt*")):
        raise InputError(
            f"{directory}: only pickled weights (pytorch_model.bin), which are never opened. "
            "Convert them to safetensors with transformers' save_pretrained"
        )
    raise InputError(f"{directory}: no {SINGLE} and no {INDEX}")


def has_weights(directory: Path) -> bool:
    """Whether every file of the weights is there, by its name; none is read but an index."""
    if (directory / SINGLE).exists():
        return True
    index = directory / INDEX
    weight_map = (
        read_json_object(index, largest=_LARGEST_INDEX).get("weight_map")
        if (index.exists())
        else None
    )
    shards = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    return bool(shards) and all((directory / str(shard)).exists() for shard in shards)


def _read_index(directory: Path, index: Path) -> dict[str, TensorRef]:
    weight_map = read_json_object(index, largest=_LARGEST_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(s, str) for s in weight_map.values()):
        raise InputError(
            f"{index}: not a safetensors index; weight_map must name the file of each tensor"
        )
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not is_plain_name(shard):
            raise InputError(f"{index}: shard {quoted(shard)} is no plain file name; refused")
        refuse_link_out(directory / shard)
    if (directory / SINGLE).exists() and SINGLE not in shards:
        raise InputError(
            f"{directory}: holds {SINGLE} and, in {INDEX}, other shards ({listed(shards, 2)}); "
            "other programs take the single file. Delete what is older"
        )
    gone = [shard for shard in shards if not (directory / shard).exists()]
    if gone:
        raise InputError(f"{index}: missing shards: {listed(gone)}. Download them again")
    refs: dict[str, TensorRef] = {}
    twice = []
    for shard in shards:
        for name, ref in read_header(directory / shard).items():
            if name in refs:
                twice.append(f"{name} is in both {refs[name].file.name} and {shard}")
            refs[name] = ref
    if twice:
        raise InputError(f"{index}: {listed(twice)}. Keep one copy")
    absent = sorted(name for name in weight_map if name not in refs)
    if absent:
        raise InputError(f"{index}: promises tensors that no shard holds: {listed(absent)}")
    return refs


def check_totality(directory: Path, cfg: ModelConfig) -> dict[str, TensorRef]:
    """Headers of the checkpoint, each key needed once and each parameter filled once.

    Raises:
        InputError: every missing, unknown and misshapen tensor, in one message.
    """
    refs = checkpoint_tensors(directory)
    if cfg.tie_word_embeddings and _HEAD in refs and _EMBED not in refs:
        log.info("%s: only %s of the tied embedding was saved; it is both", directory, _HEAD)
        refs[_EMBED] = refs.pop(_HEAD)
    wanted = {entry.hf_name: entry for entry in entries(cfg)}
    problems = []
    missing = [name for name in wanted if name not in refs]
    if missing:
        problems.append(f"missing: {listed(missing)}")
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
        problems.append(f"unknown: {listed(sorted(extra))}")
    if any(".base_layer." in name for name in extra):
        problems.append(
            "base_layer in the names says that a PEFT model was saved unmerged; merge it "
            "(merge_and_unload) and save it again"
        )
    shapes = [
        f"{name} is {list(refs[name].shape)}, config.json makes it {list(entry.param.hf_shape)}"
        + (" (vocab_size, hidden_size)" if name in (_EMBED, _HEAD) else "")
        for name, entry in wanted.items()
        if name in refs and refs[name].shape != entry.param.hf_shape
    ]
    if shapes:
        problems.append(f"shapes: {listed(shapes)}")
    if problems:
        raise InputError(f"{directory}: the weights do not fit config.json. " + "; ".join(problems))
    return refs


def _same(left: TensorRef, right: TensorRef) -> bool:
    return left.shape == right.shape and bool(np.array_equal(left.array, right.array))
