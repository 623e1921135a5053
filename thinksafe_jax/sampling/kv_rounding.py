"""Keys and values in int8: a scale for each token and KV head, rounded to nearest.

    x        [..., H]   a key or value, bfloat16 or float32
    scale    [...]      max |x| / 127, float32
    stored   [..., H]   round(x / scale), int8, from -127 to 127

It is read back as stored * scale, off by half a scale at most. A vector of zeros has the scale 0.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int8

# 1 / the largest that is stored; -128 is not, so x and -x are alike. A factor and no divisor, which
# a compiler may turn into a factor or not
_STEP = np.float32(1 / 127)
INT8 = jnp.dtype("int8")


def to_int8(x: Float[Array, "*T H"]) -> tuple[Int8[Array, "*T H"], Float32[Array, " *T"]]:
    """(what is stored, its scales)."""
    wide = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=-1) * _STEP
    divisor = jnp.where(scale > 0, scale, jnp.float32(1))[..., None]
    return jnp.round(wide / divisor).astype(jnp.int8), scale


def from_int8(stored: Int8[Array, "*T H"], scale: Float32[Array, " *T"]) -> Float32[Array, "*T H"]:
    """What is read back."""
    return stored.astype(jnp.float32) * scale[..., None]
