"""From a Hugging Face checkpoint directory to parameters, each device's slice read on its own."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.params import Params, map_params, stacked_shape
from thinksafe_jax.weights.safetensors_io import TensorRef, read_header
from thinksafe_jax.weights.table import Entry, entries

INDEX = "model.safetensors.index.json"
_DERIVED = ".rotary_emb.inv_freq"  # a buffer that old exports carry; recomputed from config.json


def load_params(
    directory: str | Path,
    cfg: ModelConfig,
    dtype: Any = jnp.bfloat16,
    shardings: Params | None = None,
    allow_nonfinite: bool = False,
) -> Params:
    """Loads every parameter, cast to `dtype`.

    Args:
        directory: folder with model.safetensors, or shards and their index.
        cfg: the model's facts, from `load_config`.
        dtype: target dtype.
        shardings: a tree like the parameters' with a Sharding at each leaf; each device receives
            only its slice, read from the file as that slice. Default: the default device.
        allow_nonfinite: accept NaN and infinity in the weights.

    Raises:
        InputError: missing, unknown or misshapen tensors (all listed together), or a broken file.
    """
    directory = Path(directory)
    refs = check_totality(directory, cfg)
    table: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries(cfg):
        table.setdefault(entry.path, []).append(entry)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def load(path: tuple[str, ...], param: Any) -> jax.Array:
        sharding = default if shardings is None else _at(shardings, path)
        parts = [(refs[e.hf_name], e) for e in table[path]]
        shape = stacked_shape(path, param, cfg)
        return jax.make_array_from_callback(
            shape, sharding, lambda index: _read(parts, shape, index, dtype), dtype=dtype
        )

    params = map_params(load, cfg)
    if not allow_nonfinite:
        _refuse_nonfinite(params, table, refs)
    return params


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
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise InputError(f"{index}: not a safetensors index ({error})") from None
    refs: dict[str, TensorRef] = {}
    for shard in sorted(set(weight_map.values())):
        file = directory / shard
        # Hub caches link shards to blobs, so a link may leave the folder; a name may not
        if "\0" in shard or Path(shard).name != shard:
            raise InputError(f"{index}: shard {shard!r} is no plain file name; refused")
        if not file.exists():
            raise InputError(f"{index}: shard {shard} is missing. Download it again")
        for name, ref in read_header(file).items():
            if name in refs:
                raise InputError(f"{name} is in both {refs[name].file.name} and {shard}")
            refs[name] = ref
    absent = sorted(name for name in weight_map if name not in refs)
    if absent:
        raise InputError(f"{index}: promises tensors that no shard holds: {_some(absent)}")
    return refs


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
        problems.append(f"missing: {_some(missing)}")
    extra = [n for n in refs if n not in wanted and not n.endswith(_DERIVED)]
    if cfg.tie_word_embeddings and "lm_head.weight" in extra and not missing:
        extra.remove("lm_head.weight")
        if not _same(refs["lm_head.weight"], refs["model.embed_tokens.weight"]):
            problems.append(
                "tie_word_embeddings is true in config.json, but lm_head.weight differs from "
                "model.embed_tokens.weight; set it to false"
            )
    if extra:
        problems.append(f"unknown: {_some(sorted(extra))}")
    shapes = [
        f"{name} is {list(refs[name].shape)}, config.json makes it {list(entry.param.hf_shape)}"
        for name, entry in wanted.items()
        if name in refs and refs[name].shape != entry.param.hf_shape
    ]
    if shapes:
        problems.append(f"shapes: {_some(shapes)}")
    if problems:
        raise InputError(f"{directory}: the weights do not fit config.json. " + "; ".join(problems))
    return refs


def _some(names: list[str], most: int = 8) -> str:
    tail = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + tail


def _same(one: TensorRef, other: TensorRef) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one.array, other.array))


def _at(tree: Params, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _read(
    parts: list[tuple[TensorRef, Entry]], shape: tuple[int, ...], index: Any, dtype: Any
) -> np.ndarray:
    """The block `index` of a leaf, read from the tensors behind it and cast."""
    ranges = [range(*s.indices(size)) for s, size in zip(index, shape, strict=True)]
    out = np.empty([len(r) for r in ranges], dtype)
    if parts[0][1].layer is None:
        out[...] = parts[0][0].array.reshape(shape)[index]
        return out
    for row, layer in enumerate(ranges[0]):
        out[row] = parts[layer][0].array.reshape(shape[1:])[index[1:]]
    return out


def _refuse_nonfinite(
    params: Params, table: dict[tuple[str, ...], list[Entry]], refs: dict[str, TensorRef]
) -> None:
    finite = jax.jit(lambda x: jnp.isfinite(x).all())
    flags = {path: finite(_at(params, path)) for path in table}
    bad = [path for path, flag in flags.items() if not bool(flag)]
    names = [
        f"{e.hf_name} ({refs[e.hf_name].file.name})"
        for path in bad
        for e in table[path]
        if not np.isfinite(refs[e.hf_name].array.astype(np.float32)).all()
    ]
    if bad:
        raise InputError(
            f"NaN or infinity in {_some(names)}; the checkpoint is damaged. "
            "allow_nonfinite=True loads it all the same"
        )
