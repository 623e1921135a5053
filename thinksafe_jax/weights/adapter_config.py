"""adapter_config.json, read strictly: whatever changes the mathematics of an adapter is refused.

A key that is not known here may belong to any variant of LoRA. So it must be switched off, as PEFT
writes every variant that is not used; then an adapter of a newer PEFT loads as long as it is plain.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError, quoted, shortened
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.models import LoraConfig, ModelConfig, target_kernels

# [prefix].model.layers.0.self_attn.q_proj.lora_A[.name of the adapter].weight
KEY = re.compile(r"(?:.*\.)?(model\.layers\.\d+\.\w+\.\w+)\.lora_([AB])(?:\.\w+)?\.weight")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_OFF = (None, False, {}, [], "")
# they are read below, or say only how training began; which layers there are the weights tell
_HARMLESS = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha",
    "lora_dropout", "bias", "use_rslora", "init_lora_weights", "layers_pattern", "megatron_core",
    "qalora_group_size", "eva_config", "loftq_config", "corda_config", "lora_ga_config",
    "runtime_config",
}  # fmt: skip
# any other way to begin may have changed the base weights, as pissa, olora and lora_ga do
_KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def read_adapter_config(file: Path) -> dict[str, Any]:
    """The file as it stands.

    Raises:
        InputError: it is no JSON object; says what it is instead, where that is known.
    """
    return read_json_object(file, f"is {file.parent} a PEFT adapter?")


def parse_lora(file: Path, cfg: ModelConfig, keys: Iterable[str]) -> LoraConfig:
    """The adapter's shape.

    Args:
        file: adapter_config.json.
        keys: of the adapter's tensors, which say what `target_modules` means.

    Raises:
        InputError: no plain LoRA on the decoder's linear layers, or a value that cannot be; every
            such key with its value.
    """
    raw = read_adapter_config(file)
    if variants := {key: value for key, value in raw.items() if _is_variant(key, value)}:
        raise InputError(f"{file}: not a plain LoRA adapter: {_shown(variants)}")
    dropout = 0.0 if raw.get("lora_dropout") is None else raw["lora_dropout"]
    if odd := _odd_values({**raw, "lora_dropout": dropout}):
        raise InputError(f"{file}: {'; '.join(odd)}")
    # target_modules may be names, suffixes or one pattern; the weights say what was meant
    named = raw.get("target_modules")
    names = named if isinstance(named, list) else []
    targets = {str(name).rpartition(".")[2] for name in names}
    targets |= {match[1].rpartition(".")[2] for key in keys if (match := KEY.fullmatch(key))}
    order = [name for name in target_kernels(cfg, TARGETS) if name in targets]
    if not order or targets - set(order):
        unknown = sorted(targets - set(order)) or named
        raise InputError(
            f"{file}: targets {quoted(unknown, 200)}; an adapter can change {', '.join(TARGETS)}"
        )
    rslora = raw.get("use_rslora") or False
    return LoraConfig(int(raw["r"]), float(raw["lora_alpha"]), float(dropout), tuple(order), rslora)


def _is_variant(key: str, value: Any) -> bool:
    """Whether a key switches on what plain LoRA has not."""
    if key == "peft_type":
        return value != "LORA"
    if key == "bias":
        return value not in ("none", None)
    if key == "init_lora_weights":
        return value not in _KEEPS_BASE
    return key not in _HARMLESS and value not in _OFF


def _odd_values(raw: dict[str, Any]) -> list[str]:
    """A sentence for each value that cannot be."""
    problems = []
    if not _is_number(raw.get("r")) or raw["r"] != int(raw["r"]) or raw["r"] < 1:
        problems.append(f"r is {_shown(raw.get('r'))}; expected a whole number from 1")
    if not _is_number(raw.get("lora_alpha")):
        problems.append(f"lora_alpha is {_shown(raw.get('lora_alpha'))}; expected a number")
    if not _is_number(raw["lora_dropout"]) or not 0 <= raw["lora_dropout"] < 1:
        problems.append(f"lora_dropout is {_shown(raw['lora_dropout'])}; expected 0 to below 1")
    if not isinstance(raw.get("use_rslora"), bool | None):
        problems.append(f"use_rslora is {_shown(raw['use_rslora'])}; expected true or false")
    return problems


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number, and none that no adapter has."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e9  # neither NaN nor infinity is


def _shown(value: Any) -> str:
    return shortened(json.dumps(value), 200)
