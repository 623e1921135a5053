"""LoRA adapters in PEFT's format, written and read through the decoder's own declaration."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.lora import Adapter, LoraConfig, target_kernels
from thinksafe_jax.weights.checkpoint import some
from thinksafe_jax.weights.folder import write_json, write_text, written_aside
from thinksafe_jax.weights.reader import all_finite
from thinksafe_jax.weights.safetensors_io import TensorRef, TensorSource, read_header, write_file

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class _Entry:
    """One tensor of an adapter file."""

    key: str
    target: str
    part: str  # a | b
    layer: int
    shape: tuple[int, ...]  # ours
    hf_shape: tuple[int, int]


def _entries(cfg: ModelConfig, lora: LoraConfig) -> Iterator[_Entry]:
    for target, kernel in target_kernels(cfg, lora.targets).items():
        split = len(kernel.shape) - kernel.in_ndim
        outputs, inputs = kernel.shape[:split], kernel.shape[split:]
        for layer in range(cfg.num_layers):
            module = kernel.hf_name.format(i=layer).removesuffix(".weight")
            stem = f"base_model.model.{module}.lora_"
            a, b = (lora.r, *inputs), (*outputs, lora.r)
            yield _Entry(f"{stem}A.weight", target, "a", layer, a, (lora.r, prod(inputs)))
            yield _Entry(f"{stem}B.weight", target, "b", layer, b, (prod(outputs), lora.r))


def export_adapter(
    out: str | Path,
    adapter: Adapter,
    lora: LoraConfig,
    cfg: ModelConfig,
    base_model: str,
    *,
    revision: str | None = None,
    card: str | None = None,
) -> None:
    """Writes a PEFT adapter: adapter_config.json and adapter_model.safetensors (float32).

    Args:
        out: directory, replaced when everything is on disk.
        base_model: Hub id or directory that PEFT loads the base from; `revision` its commit.
        card: text of README.md.

    Raises:
        InputError: `out` holds something else than a model.
        EnvironmentFault: the disk is full or cannot be written; `out` is as before.
    """

    def read(e: _Entry) -> np.ndarray:
        return np.asarray(adapter["layers"][e.target][e.part][e.layer]).reshape(e.hf_shape)

    sources = [
        TensorSource(e.key, e.hf_shape, np.dtype(np.float32), lambda e=e: read(e))
        for e in sorted(_entries(cfg, lora), key=lambda e: e.key)
    ]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "revision": revision,
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
    with written_aside(Path(out), sum(source.nbytes for source in sources)) as folder:
        write_file(folder / _WEIGHTS, sources)
        write_json(folder / _CONFIG, config)
        if card is not None:
            write_text(folder / "README.md", card)


def import_adapter(directory: str | Path, cfg: ModelConfig) -> tuple[Adapter, LoraConfig]:
    """Reads a PEFT LoRA adapter made here or elsewhere, as float32.

    Raises:
        InputError: not a plain LoRA on the decoder's linear layers, keys that are missing, unknown
            or of the wrong shape (all listed), or NaN and infinity.
    """
    directory = Path(directory)
    weights, config = directory / _WEIGHTS, directory / _CONFIG
    if not weights.exists() and (directory / "adapter_model.bin").exists():
        raise InputError(
            f"{directory}: only a pickled adapter (adapter_model.bin), which is never opened. Save "
            "it again with peft's save_pretrained, which writes safetensors"
        )
    for file in (config, weights):
        if not file.exists():
            raise InputError(f"{file}: not found; is {directory} a PEFT adapter?")
    lora = _parse_lora(config, cfg)
    refs = read_header(weights)
    wanted = {e.key: e for e in _entries(cfg, lora)}
    _check_keys(weights, refs, wanted)
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for entry in wanted.values():
        value = refs[entry.key].array.astype(np.float32)
        if not all_finite(value.reshape(-1)):
            raise InputError(f"{weights}: NaN or infinity in {entry.key}; the adapter is damaged")
        parts.setdefault((entry.target, entry.part), []).append(value.reshape(entry.shape))
    layers: dict[str, Any] = {name: {} for name in lora.targets}
    for (name, part), values in parts.items():
        layers[name][part] = jnp.asarray(np.stack(values))
    return {"layers": layers}, lora


def _check_keys(file: Path, refs: dict[str, TensorRef], wanted: dict[str, _Entry]) -> None:
    problems = [f"{key}: missing" for key in wanted if key not in refs]
    problems += [f"{key}: unknown" for key in refs if key not in wanted]
    problems += [
        f"{key}: {list(refs[key].shape)} instead of {list(entry.hf_shape)}"
        for key, entry in wanted.items()
        if key in refs and refs[key].shape != entry.hf_shape
    ]
    if problems:
        raise InputError(
            f"{file}: {len(problems)} keys do not fit the model and {_CONFIG}: {some(problems)}"
        )


def _parse_lora(file: Path, cfg: ModelConfig) -> LoraConfig:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        r, alpha = raw["r"], raw["lora_alpha"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a LoRA configuration ({error!r})") from None
    refused = {
        "peft_type": raw.get("peft_type") != "LORA",
        "bias": raw.get("bias", "none") != "none",
        "use_rslora": raw.get("use_rslora", False),
        "use_dora": raw.get("use_dora", False),
        "fan_in_fan_out": raw.get("fan_in_fan_out", False),
        "modules_to_save": raw.get("modules_to_save"),
        "rank_pattern": raw.get("rank_pattern"),
        "alpha_pattern": raw.get("alpha_pattern"),
        "layers_to_transform": raw.get("layers_to_transform"),
    }
    bad = {key: raw.get(key) for key, is_bad in refused.items() if is_bad}
    targets = raw.get("target_modules")
    if bad or not isinstance(targets, list):
        raise InputError(f"{file}: not a plain LoRA adapter: {bad or {'target_modules': targets}}")
    # PEFT writes a set, in any order; ours is the order of the layer
    order = list(target_kernels(cfg, targets))
    return LoraConfig(r, float(alpha), raw.get("lora_dropout", 0.0), tuple(order))
