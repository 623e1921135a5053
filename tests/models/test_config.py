"""config.json: read as transformers reads it, or refused with the file, the key and the value."""

import logging

import pytest

from tests.weights.kit import CONFIG
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.models import LoraConfig, load_config, parse_config

FAMILIES = {
    "qwen3": {},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": False},
    "mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"],
                "sliding_window": None},
}  # fmt: skip
FULL, SLIDING = ["full_attention"] * 2, ["full_attention", "sliding_attention"]


def raw(family="qwen3", **changes):
    return {**CONFIG, **FAMILIES[family], **changes}


def refusal(family="qwen3", **changes) -> str:
    with pytest.raises(InputError) as caught:
        parse_config(raw(family, **changes), source="here/config.json")
    assert str(caught.value).startswith("here/config.json: ")
    return str(caught.value)


WINDOWS = {
    "qwen3 as shipped": ("qwen3", {"sliding_window": None, "use_sliding_window": False}, ""),
    "qwen2 as shipped": (
        "qwen2", {"sliding_window": 64, "use_sliding_window": False, "max_window_layers": 1}, "",
    ),
    "flag": ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1},
             "sliding_window is 64; only full attention"),
    "flag, window null": ("qwen3", {"sliding_window": None, "use_sliding_window": True}, ""),
    "flag, no window": ("qwen3", {"use_sliding_window": True, "max_window_layers": 0,
                                  "max_position_embeddings": 8192},
                        "sliding_window is 4096 (as transformers takes it where it is not given)"),
    "flag, from a layer that is not there": (
        "qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}, "",
    ),
    "flag as text": ("qwen3", {"use_sliding_window": "false"},
                     "use_sliding_window is 'false'; true or false was expected"),
    "window of the whole context": (
        "qwen3", {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 0}, "",
    ),
    "layer_types full": ("qwen3", {"layer_types": FULL, "sliding_window": 64,
                                   "use_sliding_window": True, "max_window_layers": 0}, ""),
    "layer_types sliding": ("qwen3", {"layer_types": SLIDING, "sliding_window": 64},
                            "layer_types is ['full_attention', 'sliding_attention']; only"),
    "layer_types without a window": ("qwen3", {"layer_types": SLIDING, "sliding_window": None},
                                     "layer_types"),
    "layer_types too short": ("qwen3", {"layer_types": FULL[:1]}, "each of the 2 layers"),
    "layer_types no list": ("qwen3", {"layer_types": "full_attention"}, "layer_types is 'full"),
    "linear attention": ("qwen3", {"layer_types": ["linear_attention"] * 2}, "'linear_attention'"),
    "chunked attention": ("llama", {"layer_types": ["chunked_attention"] * 2}, "'chunked_attent"),
    "llama sliding": ("llama", {"layer_types": SLIDING, "sliding_window": 64}, "layer_types"),
    "llama's own window is not read": ("llama", {"sliding_window": 64}, ""),
    "mistral": ("mistral", {"sliding_window": 64}, "sliding_window is 64"),
    "mistral, layer_types full": ("mistral", {"sliding_window": 64, "layer_types": FULL},
                                  "sliding_window is 64"),
    "mistral, window of the whole context": ("mistral", {"sliding_window": 4096}, ""),
    "mistral, window as text": ("mistral", {"sliding_window": "64"}, "sliding_window is '64'"),
}  # fmt: skip


@pytest.mark.parametrize(("family", "changes", "said"), WINDOWS.values(), ids=WINDOWS)
def test_a_window_by_any_key_is_read_as_transformers_reads_it_or_refused(family, changes, said):
    """What is accepted has full attention in every layer by transformers' own reading."""
    if said:
        assert said in refusal(family, **changes)
        return
    config = parse_config(raw(family, **changes))
    theirs = transformers_config(raw(family, **changes))
    window = getattr(theirs, "sliding_window", None)
    types = getattr(theirs, "layer_types", None) or [
        "full_attention" if family == "llama" or window is None else "sliding_attention"
    ]
    windowed = window is not None and window < config.max_position_embeddings
    assert not (windowed and "sliding_attention" in types)


def test_mistral_without_the_key_has_transformers_window():
    facts = raw("mistral", max_position_embeddings=8192)
    del facts["sliding_window"]
    assert transformers_config(facts).sliding_window == 4096
    with pytest.raises(InputError, match=r"sliding_window is 4096 \(as transformers takes it"):
        parse_config(facts)


def transformers_config(facts):
    from transformers import AutoConfig

    own = {key: value for key, value in facts.items() if key != "model_type"}
    return AutoConfig.for_model(facts["model_type"], **own)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rms_norm_eps": "1e-06"}, "rms_norm_eps is '1e-06'; a number from 1e-12 to 0.1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0;"),
        ({"rms_norm_eps": True}, "rms_norm_eps is True"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"rope_parameters": {"rope_theta": -1.0}}, "rope_theta is -1.0"),
        ({"rope_parameters": "default"}, "rope_scaling is 'default'; an object or null"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ by layer"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only 1"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; true or false"),
        ({"attention_bias": 0}, "attention_bias is 0; true or false"),
        ({"head_dim": 15}, "head_dim is 15; an even number"),
        ({"head_dim": 16.0}, "head_dim is 16.0; a number from 1 on"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000; at most 1,000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; at most 1,000"),
        ({"hidden_size": 2**40}, "hidden_size is 1099511627776; at most 131,072"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings is 1000000000000"),
        ({"num_attention_heads": "x" * 500}, "num_attention_heads is 'xxx"),
    ],
    ids=lambda value: "-".join(f"{k}" for k in value) if isinstance(value, dict) else "",
)
def test_numbers_and_booleans_are_what_they_are_or_refused(changes, said):
    text = refusal(**changes)
    assert said in text and len(text) < 300


def test_llama3_scaling_is_of_numbers_in_range():
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    assert parse_config(raw("llama", rope_scaling=scaling)).rope_scaling is not None
    for change, said in (
        ({"factor": "8"}, "factor is '8'"),
        ({"factor": float("nan")}, "factor is nan"),
        ({"low_freq_factor": 4.0}, "low_freq_factor 4 is not below high_freq_factor 4"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings is 0"),
    ):
        assert said in refusal("llama", rope_scaling={**scaling, **change})


def test_every_problem_is_said_at_once():
    text = refusal(hidden_size="48", num_hidden_layers=0, rms_norm_eps=None)
    for part in ("hidden_size is '48'", "num_hidden_layers is 0", "rms_norm_eps is missing"):
        assert part in text


def test_a_llama_of_before_the_biases_is_read_as_transformers_reads_it(caplog):
    facts = raw("llama")
    del facts["mlp_bias"], facts["attention_bias"]
    with caplog.at_level(logging.INFO, logger="thinksafe_jax"):
        config = parse_config(facts, source="old/config.json")
    theirs = transformers_config(facts)
    assert (config.mlp_bias, config.qkv_bias) == (theirs.mlp_bias, theirs.attention_bias)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("old/config.json: has no ")
    assert "attention_bias false, mlp_bias false" in line
    # null is no older config, and other families have had the key from the beginning
    assert "mlp_bias is missing" in refusal("llama", mlp_bias=None)
    assert "attention_bias is missing" in refusal("qwen3", attention_bias=None)


FILES = {
    "empty": (b"", "is empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "html": (b"<!DOCTYPE html><html></html>", "an HTML page, not the file"),
    "latin-1": ('{"a": "é"}'.encode("latin-1"), "not UTF-8 text (byte 7)"),
    "trailing comma": (b'{"a": 1,}', "not valid JSON"),
    "list": (b"[]", "a JSON object was expected, not list"),
    "deep": (b"[" * 100_000, "not valid JSON (nested too deeply)"),
    "huge number": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "nan": (b'{"rms_norm_eps": NaN}', "rms_norm_eps is NaN, which is no JSON number"),
    "twice": (b'{"hidden_size": 1, "hidden_size": 2}', "the key 'hidden_size' stands there twice"),
    "too large": (b" " * (2**24 + 1), "at most 16,777,216 are read"),
}


@pytest.mark.parametrize(("content", "said"), FILES.values(), ids=FILES)
def test_a_file_that_is_something_else_is_called_what_it_is(content, said, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path)
    assert str(caught.value).startswith(str(file)) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_never_ends(tmp_path):
    with pytest.raises(InputError, match=r"not found; is .* a Hugging Face checkpoint\?"):
        load_config(tmp_path)
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is no regular file"):
        load_config(tmp_path)


@pytest.mark.parametrize("rank", [0, -1, 10**9, 8.0, True, "8"])
def test_a_rank_that_no_adapter_has_is_refused_before_anything_is_made(rank):
    with pytest.raises(ConfigError, match=r"LoRA rank r is .* from 1 to 16,384"):
        LoraConfig(r=rank)


def test_scales_that_are_no_numbers_are_refused():
    with pytest.raises(ConfigError, match="LoRA alpha is nan"):
        LoraConfig(alpha=float("nan"))
    with pytest.raises(ConfigError, match=r"dropout 1\.0"):
        LoraConfig(dropout=1.0)
