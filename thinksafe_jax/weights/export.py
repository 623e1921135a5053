"""From parameters back to Hugging Face directories: merged checkpoints and PEFT adapters.

A directory appears complete or not at all: it is written beside its place and renamed.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.lora import Adapter, LoraConfig, target_kernels
from thinksafe_jax.models.params import Params
from thinksafe_jax.weights.load import INDEX, _at
from thinksafe_jax.weights.safetensors_io import TensorSource, read_header, write_file
from thinksafe_jax.weights.table import entries

MAX_SHARD = 5 * 10**9  # bytes
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


@contextmanager
def _written_aside(out: Path) -> Iterator[Path]:
    """A scratch directory beside `out` that takes its place when the block ends well."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def save_checkpoint(
    out: str | Path,
    params: Params,
    cfg: ModelConfig,
    config_json: dict[str, Any],
    *,
    tokenizer_from: str | Path | None = None,
    max_shard: int = MAX_SHARD,
) -> None:
    """Writes a Hugging Face checkpoint: config.json, safetensors (with index), tokenizer files.

    Args:
        out: directory, replaced when everything is on disk.
        params: the parameters, in the dtype to be stored.
        config_json: the model's config.json; `dtype` in it is set to what is stored.
        tokenizer_from: directory whose tokenizer and generation files are copied.
        max_shard: bytes in one safetensors file.
    """
    dtype = np.dtype(jax.tree.leaves(params)[0].dtype)
    sources = [
        TensorSource(
            e.hf_name, e.param.hf_shape, dtype, lambda e=e: _host(params, e.path, e.layer, e.param)
        )
        for e in entries(cfg)
    ]
    with _written_aside(Path(out)) as folder:
        _write_shards(folder, sources, max_shard)
        config = {**config_json, "dtype": dtype.name}
        config.pop("torch_dtype", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in _TOKENIZER_FILES if tokenizer_from else ():
            if (file := Path(tokenizer_from) / name).exists():
                shutil.copyfile(file, folder / name)


def _host(params: Params, path: tuple[str, ...], layer: int | None, param: Any) -> np.ndarray:
    leaf = _at(params, path)
    return np.asarray(leaf if layer is None else leaf[layer]).reshape(param.hf_shape)


def _write_shards(folder: Path, sources: list[TensorSource], max_shard: int) -> None:
    shards: list[list[TensorSource]] = [[]]
    for source in sources:
        if shards[-1] and sum(s.nbytes for s in shards[-1]) + source.nbytes > max_shard:
            shards.append([])
        shards[-1].append(source)
    if len(shards) == 1:
        write_file(folder / "model.safetensors", shards[0])
        return
    weight_map = {}
    for n, shard in enumerate(shards, start=1):
        name = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard)
        weight_map |= {source.name: name for source in shard}
    index = {"metadata": {"total_size": sum(s.nbytes for s in sources)}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def export_adapter(
    out: str | Path, adapter: Adapter, lora: LoraConfig, cfg: ModelConfig, base_model: str
) -> None:
    """Writes a PEFT adapter: adapter_config.json and adapter_model.safetensors (float32)."""
    sources = []
    for name, kernel in target_kernels(cfg, lora.targets).items():
        for layer in range(cfg.num_layers):
            a, b = (adapter["layers"][name][part][layer] for part in "ab")
            module = kernel.hf_name.format(i=layer).removesuffix(".weight")
            for part, value, shape in (
                ("A", a, (lora.r, kernel.hf_shape[1])),
                ("B", b, (kernel.hf_shape[0], lora.r)),
            ):
                key = f"base_model.model.{module}.lora_{part}.weight"
                read = lambda value=value, shape=shape: np.asarray(value).reshape(shape)  # noqa: E731
                sources.append(TensorSource(key, shape, np.dtype(np.float32), read))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "use_rslora": False,
    }
    with _written_aside(Path(out)) as folder:
        write_file(folder / "adapter_model.safetensors", sorted(sources, key=lambda s: s.name))
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def import_adapter(directory: str | Path, cfg: ModelConfig) -> tuple[Adapter, LoraConfig]:
    """Reads a PEFT LoRA adapter made here or elsewhere.

    Raises:
        InputError: not a plain LoRA on the decoder's linear layers, or keys that are missing,
            unknown or of the wrong shape (all listed).
    """
    directory = Path(directory)
    config_file, weights_file = (
        directory / "adapter_config.json",
        directory / "adapter_model.safetensors",
    )
    for file in (config_file, weights_file):
        if not file.exists():
            raise InputError(f"{file}: not found; is {directory} a PEFT adapter?")
    lora = _parse_lora(json.loads(config_file.read_text()), config_file, cfg)
    refs = read_header(weights_file)
    layers: dict[str, Any] = {}
    wanted = set()
    problems = []
    for name, kernel in target_kernels(cfg, lora.targets).items():
        outputs = kernel.shape[: len(kernel.shape) - kernel.in_ndim]
        inputs = kernel.shape[len(outputs) :]
        shapes = {"a": (lora.r, *inputs), "b": (*outputs, lora.r)}
        parts: dict[str, list[np.ndarray]] = {"a": [], "b": []}
        for layer in range(cfg.num_layers):
            module = kernel.hf_name.format(i=layer).removesuffix(".weight")
            for part, shape in shapes.items():
                key = f"base_model.model.{module}.lora_{part.upper()}.weight"
                wanted.add(key)
                ref = refs.get(key)
                if ref is None or prod(ref.shape) != prod(shape):
                    problems.append(f"{key}: {'missing' if ref is None else list(ref.shape)}")
                else:
                    parts[part].append(ref.array.astype(np.float32).reshape(shape))
        if not problems:
            layers[name] = {part: jnp.asarray(np.stack(values)) for part, values in parts.items()}
    problems += [f"{key}: unknown" for key in refs if key not in wanted]
    if problems:
        raise InputError(f"{weights_file}: {len(problems)} keys do not fit: {problems[:8]}")
    return {"layers": layers}, lora


def _parse_lora(raw: dict[str, Any], file: Path, cfg: ModelConfig) -> LoraConfig:
    refused = {
        "peft_type": raw.get("peft_type") != "LORA",
        "bias": raw.get("bias", "none") != "none",
        "use_rslora": raw.get("use_rslora", False),
        "use_dora": raw.get("use_dora", False),
        "modules_to_save": raw.get("modules_to_save"),
        "rank_pattern": raw.get("rank_pattern"),
        "alpha_pattern": raw.get("alpha_pattern"),
        "layers_to_transform": raw.get("layers_to_transform"),
    }
    bad = {key: raw.get(key) for key, is_bad in refused.items() if is_bad}
    targets = raw.get("target_modules")
    if bad or not isinstance(targets, list):
        raise InputError(f"{file}: not a plain LoRA adapter: {bad or {'target_modules': targets}}")
    names = tuple(target_kernels(cfg, targets))
    return LoraConfig(raw["r"], raw["lora_alpha"], raw.get("lora_dropout", 0.0), names)
