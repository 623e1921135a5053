"""The facts of a checkpoint's config.json, in both layouts (transformers 4 and 5).

No fact has a default but those that transformers added later than checkpoints were made
(`_ADDED_LATER`): what a family fixes by definition is written in `_FAMILIES`, everything else must
stand in the file. Values are read as transformers reads them; one of another type, out of its
range, or that this decoder does not implement is refused by name.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import InputError, quoted
from thinksafe_jax.json_files import read_json_object

_log = logging.getLogger(__name__)


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


# sizes above these are no model of today: refused before anything of that size is made
_LARGEST = {
    "vocab_size": 2**22,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1000,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 1024,
    "max_position_embeddings": 2**27,
    "original_max_position_embeddings": 2**27,
}
_NUMBERS = {  # lowest and highest
    "rms_norm_eps": (1e-12, 0.1),
    "rope_theta": (1.0, 1e12),
    "factor": (1.0, 1e4),
    "low_freq_factor": (1e-3, 1e4),
    "high_freq_factor": (1e-3, 1e4),
}
# transformers read Llamas without these keys before it had them, and still does: the value it takes
_ADDED_LATER = {"llama": {"attention_bias": False, "mlp_bias": False}}
_WINDOW_FLAG = ("qwen2", "qwen3")  # sliding_window counts where use_sliding_window is true
_LLAMA3_FACTS = ("factor", "low_freq_factor", "high_freq_factor")


def load_config(directory: str | Path) -> ModelConfig:
    """Reads DIRECTORY/config.json.

    Raises:
        InputError: the file is missing, is not JSON, or names something unsupported.
    """
    file = Path(directory) / "config.json"
    raw = read_json_object(file, f"is {directory} a Hugging Face checkpoint?")
    return parse_config(raw, source=str(file))


def parse_config(raw: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """ModelConfig from a config.json dictionary.

    Args:
        source: the file, for messages.

    Raises:
        InputError: with every problem of the file, each with key and value.
    """
    if not isinstance(raw, dict):
        raise InputError(f"{source}: a JSON object was expected, not {type(raw).__name__}")
    family = _FAMILIES.get(str(raw.get("model_type")))
    if family is None or raw.get("architectures") != [family.architecture]:
        known = ", ".join(f.architecture for f in _FAMILIES.values())
        raise InputError(
            f"{source}: model_type {quoted(raw.get('model_type'))} with architectures "
            f"{quoted(raw.get('architectures'))} is not supported; supported: {known}"
        )
    facts = _Facts(raw)
    config = _model_config(facts, family)
    if not facts.problems:
        facts.problems += _conflicts(config, raw)
    if facts.problems:
        raise InputError(f"{source}: " + "; ".join(facts.problems))
    if facts.taken:
        _log.info(
            "%s: has no %s, as older ones do not; taken as transformers takes it: %s",
            source,
            " and no ".join(facts.taken),
            ", ".join(f"{key} {str(value).lower()}" for key, value in facts.taken.items()),
        )
    return config


def _model_config(facts: "_Facts", family: _Family) -> ModelConfig:
    """The facts of a family; for a fact that is missing or wrong, any value, and a problem."""
    raw = facts.raw
    if "auto_map" in raw:
        facts.problems.append("auto_map asks for remote code, which is never executed")
    if raw.get("hidden_act") != "silu":
        facts.problems.append(
            f"hidden_act is {quoted(raw.get('hidden_act'))}; only 'silu' is supported"
        )
    heads, hidden = facts.size("num_attention_heads"), facts.size("hidden_size")
    layers, positions = facts.size("num_hidden_layers"), facts.size("max_position_embeddings")
    explicit = family.head_dim or raw.get("head_dim") is not None
    theta, scaling = _rope(facts)
    facts.problems += _window_problems(raw, layers, positions)
    return ModelConfig(
        family=raw["model_type"],
        vocab_size=facts.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=facts.size("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=facts.size("num_key_value_heads"),
        head_dim=facts.size("head_dim") if explicit else hidden // heads,
        rms_norm_eps=facts.number("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        max_position_embeddings=positions,
        tie_word_embeddings=facts.flag("tie_word_embeddings"),
        qkv_bias=facts.flag("attention_bias", family.qkv_bias),
        o_bias=facts.flag("attention_bias", family.o_bias),
        mlp_bias=facts.flag("mlp_bias", family.mlp_bias),
        qk_norm=family.qk_norm,
    )


class _Facts:
    """Values of a config.json by type; what is wrong is collected, to be said together.

    Attributes:
        problems: half a sentence each, with key and value.
        taken: what the file does not say and an older one need not.
    """

    def __init__(self, raw: dict[str, Any]):
        self.raw, self.problems = raw, []
        self.taken: dict[str, Any] = {}

    def size(self, key: str, section: dict[str, Any] | None = None) -> int:
        """A whole number from 1 on, as large as models are; 1 where it is wrong."""
        value = self._value(key, section)
        if type(value) is int and 1 <= value <= _LARGEST[key]:
            return value
        if value is not None:
            asked = "a number from 1 on" if _is_low(value) else f"at most {_LARGEST[key]:,}"
            self.problems.append(f"{key} is {quoted(value)}; {asked} was expected")
        return 1

    def number(self, key: str, section: dict[str, Any] | None = None) -> float:
        """A number within its range; 1.0 where it is wrong."""
        value, (low, high) = self._value(key, section), _NUMBERS[key]
        if isinstance(value, int | float) and value is not True and low <= value <= high:
            return float(value)
        if value is not None:
            self.problems.append(
                f"{key} is {quoted(value)}; a number from {low:g} to {high:g} was expected"
            )
        return 1.0

    def flag(self, key: str, fixed: bool | None = None) -> bool:
        """True or false: what the family fixes, or what the file says."""
        if fixed is not None:
            return fixed
        later = _ADDED_LATER.get(self.raw["model_type"], {})
        if key in later and key not in self.raw:
            self.taken[key] = later[key]
            return later[key]
        value = self._value(key, None)
        if value is not None and type(value) is not bool:
            text = f"{key} is {quoted(value)}; true or false was expected"
            self.problems += [text] * (text not in self.problems)
        return value is True

    def _value(self, key: str, section: dict[str, Any] | None) -> Any:
        value = (self.raw if section is None else section).get(key)
        text = f"{key} is missing"
        if value is None and text not in self.problems:
            self.problems.append(text)
        return value


def _is_low(value: Any) -> bool:
    return type(value) is not int or value < 1


def _conflicts(config: ModelConfig, raw: dict[str, Any]) -> list[str]:
    """Facts that are right alone and wrong together."""
    problems = []
    heads, kv_heads = config.num_heads, config.num_kv_heads
    if raw.get("head_dim") is None and config.hidden_size % heads:
        problems.append(
            f"hidden_size {config.hidden_size} is no multiple of num_attention_heads {heads}, and "
            "there is no head_dim"
        )
    elif config.head_dim % 2:
        problems.append(
            f"head_dim is {config.head_dim}; an even number was expected: RoPE turns pairs"
        )
    if heads % kv_heads:
        problems.append(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    return problems


def _window_problems(raw: dict[str, Any], layers: int, positions: int) -> list[str]:
    """Why some layer would not attend to all earlier tokens, by any key that says so.

    Sources: transformers `Qwen2Config`, `Qwen3Config`, `MistralConfig` (`__post_init__`).
    """
    types = raw.get("layer_types")
    if types is not None:
        wrong = not isinstance(types, list) or len(types) != layers
        if wrong or any(kind != "full_attention" for kind in types):
            return [
                f"layer_types is {quoted(types)}; only 'full_attention' for each of the {layers} "
                "layers is supported"
            ]
    flag = raw.get("use_sliding_window", False)
    if flag is not None and type(flag) is not bool:
        return [f"use_sliding_window is {quoted(flag)}; true or false was expected"]
    family, window = raw["model_type"], raw.get("sliding_window", 4096)  # 4096: transformers'
    if family == "llama" and not flag:
        return []  # transformers' Llama knows no window
    if family in _WINDOW_FLAG and (not flag or types is not None):
        return []
    if window is None:
        return []
    if type(window) is not int or window < 1:
        return [f"sliding_window is {quoted(window)}; a number from 1 on, or null, was expected"]
    if window >= positions:
        return []  # no token is ever out of the window
    first = raw.get("max_window_layers", 28) if family in _WINDOW_FLAG else 0
    if type(first) is int and first >= layers:
        return []  # the layers before this one attend to everything
    given = "" if "sliding_window" in raw else " (as transformers takes it where it is not given)"
    return [f"sliding_window is {window}{given}; only full attention is supported"]


def _rope(facts: _Facts) -> tuple[float, Llama3Scaling | None]:
    """RoPE base and scaling from `rope_parameters` (v5) or `rope_theta` + `rope_scaling` (v4)."""
    raw, problems = facts.raw, facts.problems
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        problems.append(f"rope_scaling is {quoted(scaling)}; an object or null was expected")
        return 1.0, None
    if any(isinstance(value, dict) for value in scaling.values()):
        problems.append(f"rope_parameters {quoted(scaling)} differ by layer; not supported")
        return 1.0, None
    theta = scaling.get("rope_theta", raw.get("rope_theta"))
    if theta is None:
        problems.append("rope_theta is missing (top level and rope_parameters)")
    base = 1.0 if theta is None else facts.number("rope_theta", {"rope_theta": theta})
    partial = scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1))
    if partial not in (None, 1):
        problems.append(f"partial_rotary_factor is {quoted(partial)}; only 1 is supported")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return base, None
    if kind != "llama3":
        problems.append(f"rope scaling {quoted(kind)} is not supported; supported: default, llama3")
        return base, None
    names = (*_LLAMA3_FACTS, "original_max_position_embeddings")
    if missing := [name for name in names if name not in scaling]:
        problems.append(f"llama3 rope scaling lacks {', '.join(missing)}")
        return base, None
    factor, low, high = (facts.number(name, scaling) for name in _LLAMA3_FACTS)
    if low >= high:
        problems.append(f"low_freq_factor {low:g} is not below high_freq_factor {high:g}")
    original = facts.size("original_max_position_embeddings", scaling)
    return base, Llama3Scaling(factor, low, high, original)
