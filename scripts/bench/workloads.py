"""The workloads of the sampler's benchmark: tiny random models and length distributions."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.models import ModelConfig, load_config
from thinksafe_jax.sampling import Request
from thinksafe_jax.weights import load_params

# T: small enough that overheads show; W: about 570 MB of float32 weights, beyond every cache
MODELS = {
    "T": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8,
          "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 768, "vocab_size": 8192},
    "W": {"hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 16,
          "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 3072,
          "vocab_size": 32768},
}  # fmt: skip


def save_model(name: str, folder: Path, **changes: int) -> None:
    """Writes the random Qwen3 checkpoint of a workload with transformers, for both sides."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        **{**MODELS[name], **changes}, max_position_embeddings=16384, tie_word_embeddings=False
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)


def load_model(folder: Path) -> tuple[ModelConfig, dict]:
    cfg = load_config(folder)
    return cfg, load_params(folder, cfg, jnp.float32)


def long_tail(count: int, vocabulary: int, seed: int = 0) -> list[Request]:
    """Lengths lognormal (mean about 65, longest about 226), prompts of 8 to 60 tokens.

    The lengths are forced by each request's maximum: nothing is an end-of-sequence token.
    """
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(3.9, 0.7, count), 4, 226).astype(int)
    return [
        Request(
            f"row-{n}",
            rng.integers(1, vocabulary, rng.integers(8, 61)).tolist(),
            SamplingConfig(0.6, 0.95, 20, 0.0, int(length)),
        )
        for n, length in enumerate(lengths)
    ]


def chain_of_thought_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Response lengths like Qwen3-8B's on GPQA (ml-energy/leaderboard), cut at 16,384.

    A gamma distribution with the published mean of 8,113; its median is 7.5k (published 7,523),
    3.8 % are above 16,384 (3.4 %) and the 99th percentile is 20.2k (20.9k).
    """
    rng = np.random.default_rng(seed)
    return np.clip(rng.gamma(4.2, 8113 / 4.2, count), 200, 16_384).astype(int)
