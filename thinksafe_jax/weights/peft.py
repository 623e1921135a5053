"""LoRA adapters in PEFT's format, written and read through the decoder's own declaration."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.errors import InputError, listed
from thinksafe_jax.models import Adapter, LoraConfig, ModelConfig, target_kernels
from thinksafe_jax.weights.adapter_config import KEY, parse_lora, read_adapter_config
from thinksafe_jax.weights.atomic_folder import write_json, write_text, written_aside
from thinksafe_jax.weights.gather import on_host, written_by_first
from thinksafe_jax.weights.links import refuse_links_out
from thinksafe_jax.weights.safetensors import TensorRef, TensorSource, read_header, write_file
from thinksafe_jax.weights.slices import all_finite

log = logging.getLogger(__name__)
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

    With an adapter over several processes all must call it; process 0 writes.

    Args:
        out: directory, replaced when everything is on disk.
        base_model: Hub id or directory that PEFT loads the base from; `revision` its commit.
        card: text of README.md.

    Raises:
        InputError: `out` holds something else than a model.
        EnvironmentFault: the disk is full or cannot be written; `out` is as before.
    """
    table = sorted(_entries(cfg, lora), key=lambda e: e.key)
    arrays = (
        on_host(adapter["layers"][e.target][e.part], e.layer).reshape(e.hf_shape) for e in table
    )
    with written_by_first(Path(out), arrays) as gathered:
        if jax.process_index() == 0:
            sources = [
                TensorSource(e.key, e.hf_shape, np.dtype(np.float32), gathered.__next__)
                for e in table
            ]
            with written_aside(Path(out), sum(source.nbytes for source in sources)) as folder:
                write_file(folder / _WEIGHTS, sources)
                write_json(folder / _CONFIG, _adapter_config(lora, base_model, revision))
                if card is not None:
                    write_text(folder / "README.md", card)


def _adapter_config(lora: LoraConfig, base_model: str, revision: str | None) -> dict[str, Any]:
    """Content of adapter_config.json, as peft.LoraConfig reads it."""
    return {
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
        "use_rslora": lora.rslora,
    }


def import_adapter(
    directory: str | Path, cfg: ModelConfig, base_model: str | None = None
) -> tuple[Adapter, LoraConfig]:
    """Reads a PEFT LoRA adapter made here or elsewhere, as float32.

    Args:
        base_model: Hub id or directory of the model that it is put on. One of another base is put
            on it all the same, and said in the log: folders are moved and renamed.

    Returns:
        {"layers": {target: {"a": `[L, r, *inputs]`, "b": `[L, *outputs, r]`}}}, and its shape.

    Keys may lack PEFT's prefix or carry the adapter's name, as other tools save them.

    Raises:
        InputError: not a plain LoRA on the decoder's linear layers, keys that are missing, unknown
            or of the wrong shape (all listed), or NaN and infinity.
    """
    directory = Path(directory)
    if directory.is_dir():
        refuse_links_out(directory)
    weights, config = directory / _WEIGHTS, directory / _CONFIG
    if not weights.exists() and (directory / "adapter_model.bin").exists():
        raise InputError(
            f"{directory}: only a pickled adapter (adapter_model.bin), which is never opened. Save "
            "it again with peft's save_pretrained, which writes safetensors"
        )
    for file in (config, weights):
        if not file.exists():
            raise InputError(f"{file}: not found; is {directory} a PEFT adapter?")
    if base_model is not None:
        _say_other_base(config, base_model)
    refs = _by_plain_name(weights)
    lora = parse_lora(config, cfg, refs)
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


def _say_other_base(config: Path, base_model: str) -> None:
    """A line in the log where an adapter names another base; a folder may lie elsewhere now."""
    made_for = read_adapter_config(config).get("base_model_name_or_path")
    if isinstance(made_for, str) and made_for and Path(made_for).name != Path(base_model).name:
        log.warning("%s: was trained on %s and is put on %s", config.parent, made_for, base_model)


def _by_plain_name(file: Path) -> dict[str, TensorRef]:
    """The tensors under the keys that PEFT itself would have given them."""
    refs: dict[str, TensorRef] = {}
    for key, ref in read_header(file).items():
        parts = KEY.fullmatch(key)
        name = f"base_model.model.{parts[1]}.lora_{parts[2]}.weight" if parts else key
        if name in refs:
            raise InputError(f"{file}: {refs[name].name} and {key} are the same weight; keep one")
        refs[name] = ref
    return refs


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
            f"{file}: {len(problems)} keys do not fit the model and {_CONFIG}: {listed(problems)}"
        )
