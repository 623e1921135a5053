"""What the tests of this room share: small checkpoints without transformers, and their damage."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.models import ModelConfig, init_params, load_config
from thinksafe_jax.weights import save_checkpoint

CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
}


def small_checkpoint(
    folder: Path, *, max_shard: int = 10**9, dtype=jnp.float32, **facts
) -> tuple[ModelConfig, dict]:
    """A random checkpoint in `folder`; `max_shard` bytes cut it into shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **facts}
    (folder / "config.json").write_text(json.dumps(config))
    cfg = load_config(folder)
    params = jax.jit(init_params, static_argnums=(0, 2))(cfg, jax.random.key(0), dtype)
    save_checkpoint(folder, params, cfg, config, max_shard=max_shard)
    return cfg, params


def same_bits(one, other) -> bool:
    """Whether two trees hold the same arrays, dtypes included."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
    )
