"""Tiny decoders and a small mesh file for the sharding tests."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from tests.support import REPOSITORY, tiny_config
from thinksafe_jax.sharding import Phase

MESHES = sorted((REPOSITORY / "configs" / "mesh").glob("*.yaml"))
NAMES = [path.stem for path in MESHES]

# 8 query heads on 2 KV heads: tensor parallelism of 4 and 8 needs the KV heads replicated
TIED = tiny_config()
BIASED = dataclasses.replace(
    TIED,
    family="llama",
    tie_word_embeddings=False,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    qk_norm=False,
)

MESH = """\
topology:
  chip: test chip
  chips: 8
  hosts: 1
  hbm_bytes: 16e9
  peak_flops: 100e12
  hbm_bandwidth: 800e9
  interconnect_bandwidth: 400e9
train: &phase
  axes: {replica: 2, tensor: 4}
  split: {tensor: [kv, group]}
  rules:
    batch: replica
    sequence: null
    layers: null
    vocab: tensor
    embed: null
    heads: tensor
    kv_heads: kv
    head_dim: null
    mlp: tensor
    norm: null
    lora_rank: null
generate: *phase
"""


def write_mesh(folder: Path, *changes: tuple[str, str]) -> Path:
    """MESH in a file, each (old, new) of `changes` replaced."""
    text = MESH
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "mine.yaml"
    file.write_text(text)
    return file


def phase(axes: dict[str, int] | None = None, **rules: str | tuple[str, ...]) -> Phase:
    """kv 2 x group 2 with a generate table; `rules` replace or add some."""
    both = ("kv", "group")
    table = {
        "batch": (), "sequence": (), "layers": (), "vocab": both, "embed": (), "heads": both,
        "kv_heads": ("kv",), "head_dim": (), "mlp": both, "norm": (), "lora_rank": (),
    }  # fmt: skip
    named = {name: (to,) if isinstance(to, str) else to for name, to in rules.items()}
    return Phase(axes or {"kv": 2, "group": 2}, {}, table | named)


def batch(rows: int = 8, length: int = 24) -> tuple[jax.Array, ...]:
    """tokens, positions and segments `[rows, length]`; every row is packed and padded."""
    tokens = jax.random.randint(jax.random.key(5), (rows, length), 0, TIED.vocab_size, jnp.int32)
    step = jnp.arange(length, dtype=jnp.int32)
    segments = jnp.where(step < 10, 1, jnp.where(step < 20, 2, 0)).astype(jnp.int32)
    positions = jnp.where(step < 10, step, step - 10)
    return (
        tokens,
        jnp.broadcast_to(positions[None], tokens.shape),
        jnp.broadcast_to(segments[None], tokens.shape),
    )
