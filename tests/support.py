"""What several tests share: reference assets, tiny random models made by transformers."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def shared_asset(*parts: str) -> Path:
    """A file or folder of the reference assets; skips the test, saying so, where it is absent."""
    path = SHARED.joinpath("assets", *parts)
    if not path.exists():
        pytest.skip(f"reference asset {'/'.join(parts)} is not beside the repository")
    return path


# parameter counts of the real models, tied embeddings counted once
PUBLISHED = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
    "DeepSeek-R1-Distill-Llama-8B": 8_030_261_248,
    "Llama-Guard-3-1B": 1_498_482_688,
    "Llama-Guard-3-8B": 8_030_261_248,
    "wildguard": 7_248_023_552,
    "Qwen3Guard-Gen-0.6B": 596_049_920,
    "Qwen3Guard-Gen-4B": 4_022_468_096,
    "Qwen3Guard-Gen-8B": 8_190_735_360,
}

# shapes chosen to catch shortcuts: heads x head_dim != hidden, one KV head, heads no power of two
TINY = {
    "qwen3": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
              "head_dim": 16},
    "qwen3-untied": {"hidden_size": 40, "num_attention_heads": 3, "num_key_value_heads": 1,
                     "head_dim": 32, "tie_word_embeddings": False},
    "qwen2": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3},
    "qwen2-tied": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1,
                   "tie_word_embeddings": True},
    "llama": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2},
    "llama-bias": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
                   "attention_bias": True, "mlp_bias": True},
    "llama3-scaled": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
                      "head_dim": 24, "rope_theta": 500000.0, "rope_scaling": {
                          "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
    "mistral": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
                "head_dim": 16, "sliding_window": None},
}  # fmt: skip


def tiny_config(**changes):
    """Facts of a tiny Qwen3, changed where a test needs it."""
    from thinksafe_jax.models import ModelConfig

    facts = {
        "family": "qwen3",
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_layers": 2,
        "num_heads": 8,
        "num_kv_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "qkv_bias": False,
        "o_bias": False,
        "mlp_bias": False,
        "qk_norm": True,
    }
    return ModelConfig(**{**facts, **changes})


def save_tiny(name: str, directory: Path, dtype: str = "float32", **overrides):
    """Saves a random transformers checkpoint of TINY[name]; returns the torch model (eval mode)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family = name.split("-")[0].replace("llama3", "llama")
    settings = {
        "vocab_size": 97,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "max_position_embeddings": 256,
        "tie_word_embeddings": name.startswith("qwen3"),
        **TINY[name],
        **overrides,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():  # biases and norms start at constants; random values show mix-ups
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return model


_JOIN = """
import sys, jax
ARGUMENTS = sys.argv[4:]
jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def run_processes(script: str, count: int, *arguments, devices: int) -> list[str]:
    """Runs a script in `count` processes that have found each other; what each of them printed.

    Args:
        script: finds `arguments` as the strings ARGUMENTS.
        devices: of each process.
    """
    import os
    import socket
    import subprocess
    import sys

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", _JOIN + script, address, str(count)]
    processes = [
        subprocess.Popen(
            [*command, str(n), *map(str, arguments)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]
    try:
        results = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [errors for p, (_, errors) in zip(processes, results, strict=True) if p.returncode]
    assert not failed, "\n\n".join(failed)
    return [output for output, _ in results]
