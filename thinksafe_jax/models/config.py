"""The facts of a checkpoint's config.json, in both layouts (transformers 4 and 5).

No fact has a default: what a family fixes by definition is written in `_FAMILIES`, everything else
must stand in the file, and a value this decoder does not implement is refused by name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError


@dataclass(frozen=True)
class Llama3Scaling:
    """Frequency scaling of Llama 3.1 (HF `modeling_rope_utils._compute_llama3_parameters`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of one decoder of the Qwen3, Qwen2, Llama or Mistral family."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool


@dataclass(frozen=True)
class _Family:
    architecture: str
    qk_norm: bool = False
    qkv_bias: bool | None = None  # None: config.json's attention_bias says it
    o_bias: bool | None = None
    mlp_bias: bool | None = False
    head_dim: bool = True  # whether head_dim must be in the file


_FAMILIES = {
    "qwen3": _Family("Qwen3ForCausalLM", qk_norm=True),
    "qwen2": _Family("Qwen2ForCausalLM", qkv_bias=True, o_bias=False, head_dim=False),
    "llama": _Family("LlamaForCausalLM", mlp_bias=None, head_dim=False),
    "mistral": _Family("MistralForCausalLM", qkv_bias=False, o_bias=False, head_dim=False),
}


def load_config(directory: str | Path) -> ModelConfig:
    """Reads DIRECTORY/config.json.

    Raises:
        InputError: the file is missing, is not JSON, or names something unsupported.
    """
    file = Path(directory) / "config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: not found; is {directory} a Hugging Face checkpoint?") from None
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({error})") from None
    return parse_config(raw, where=str(file))


def parse_config(raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """ModelConfig from a config.json dictionary; every problem is reported in one InputError."""
    if not isinstance(raw, dict):
        raise InputError(f"{where}: a JSON object was expected, not {type(raw).__name__}")
    problems: list[str] = []
    family = _FAMILIES.get(str(raw.get("model_type")))
    if family is None or raw.get("architectures") != [family.architecture]:
        known = ", ".join(f.architecture for f in _FAMILIES.values())
        raise InputError(
            f"{where}: model_type {raw.get('model_type')!r} with architectures "
            f"{raw.get('architectures')} is not supported; supported: {known}"
        )
    if "auto_map" in raw:
        problems.append("auto_map asks for remote code, which is never executed")

    def need(key: str) -> Any:
        if raw.get(key) is None:
            problems.append(f"{key} is missing")
        return raw.get(key)

    def size(key: str) -> int:
        value = need(key)
        if value is not None and (type(value) is not int or value < 1):
            problems.append(f"{key} is {value!r}; a number from 1 on was expected")
        return value if type(value) is int and value > 0 else 1

    def flag(fixed: bool | None, key: str) -> bool:
        return bool(need(key)) if fixed is None else fixed

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    own = family.head_dim or raw.get("head_dim") is not None
    head_dim = size("head_dim") if own else hidden // heads
    theta, scaling = _rope(raw, problems)
    if raw.get("hidden_act") != "silu":
        problems.append(f"hidden_act is {raw.get('hidden_act')!r}; only 'silu' is supported")
    window = raw.get("sliding_window")
    if window is not None and raw.get("use_sliding_window", family.architecture[0] == "M"):
        problems.append(f"sliding_window is {window}; only full attention is supported")
    config = ModelConfig(
        family=raw["model_type"],
        vocab_size=size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=size("intermediate_size"),
        num_layers=size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=size("num_key_value_heads"),
        head_dim=head_dim,
        rms_norm_eps=need("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        max_position_embeddings=size("max_position_embeddings"),
        tie_word_embeddings=flag(None, "tie_word_embeddings"),
        qkv_bias=flag(family.qkv_bias, "attention_bias"),
        o_bias=flag(family.o_bias, "attention_bias"),
        mlp_bias=flag(family.mlp_bias, "mlp_bias"),
        qk_norm=family.qk_norm,
    )
    if not problems and heads % config.num_kv_heads:
        problems.append(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads "
            f"{config.num_kv_heads}"
        )
    if problems:
        raise InputError(f"{where}: " + "; ".join(problems))
    return config


def _rope(raw: dict[str, Any], problems: list[str]) -> tuple[float, Llama3Scaling | None]:
    """RoPE base and scaling from `rope_parameters` (v5) or `rope_theta` + `rope_scaling` (v4)."""
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = scaling.get("rope_theta", raw.get("rope_theta"))
    if theta is None:
        problems.append("rope_theta is missing (top level and rope_parameters)")
        theta = 0.0
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        problems.append(f"rope scaling {kind!r} is not supported; supported: default, llama3")
        return float(theta), None
    names = (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    )
    missing = [name for name in names if name not in scaling]
    if missing:
        problems.append(f"llama3 rope scaling lacks {', '.join(missing)}")
        return float(theta), None
    return float(theta), Llama3Scaling(**{name: scaling[name] for name in names})
