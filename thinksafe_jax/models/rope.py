"""Rotary position embeddings, half-rotation as Hugging Face stores it."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from thinksafe_jax.models.config import ModelConfig


def inverse_frequencies(cfg: ModelConfig) -> np.ndarray:
    """Angular frequencies `[head_dim / 2]` in radians per token, float32."""
    exponent = np.arange(0, cfg.head_dim, 2, dtype=np.float32) / np.float32(cfg.head_dim)
    frequencies = (1.0 / np.float32(cfg.rope_theta) ** exponent).astype(np.float32)
    scaling = cfg.rope_scaling
    if scaling is None:
        return frequencies
    original = scaling.original_max_position_embeddings
    wavelength = 2 * np.pi / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    scaled = np.where(wavelength > original / low, frequencies / scaling.factor, blended)
    return np.where(wavelength < original / high, frequencies, scaled).astype(np.float32)


def rope_tables(
    cfg: ModelConfig, positions: Int[Array | np.ndarray, "B T"]
) -> tuple[Float32[Array, "B T H_half"], Float32[Array, "B T H_half"]]:
    """cos and sin of every position's angles; H_half is head_dim / 2."""
    frequencies = jnp.asarray(inverse_frequencies(cfg))
    angles = positions.astype(jnp.float32)[..., None] * frequencies[None, None]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(
    x: Float[Array, "B T N H"], cos: Float[Array, "B T H_half"], sin: Float[Array, "B T H_half"]
) -> Float[Array, "B T N H"]:
    """Queries or keys turned by their positions; computed in float32, returned in x's dtype."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
