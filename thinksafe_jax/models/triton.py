"""What our kernels for GPU share: Pallas' way to Triton.

JAX 0.11 calls it deprecated and names no other; where it is gone, the kernels refuse, and XLA runs.
"""

from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.models.attention_request import AttentionRequest

_TRITON = "jax.experimental.pallas.triton"


def compiler_params(warps: int, stages: int) -> Any:
    """Options of Triton: warps of a program, and blocks on their way at a time."""
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=warps, num_stages=stages)


def float32_dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Product in float32; operands of float32 are not rounded to tf32."""
    exact = "highest" if a.dtype == jnp.float32 else "default"
    return jnp.dot(a, b, precision=exact, preferred_element_type=jnp.float32)


def triton_refusal(request: AttentionRequest, widest: int = 256) -> str | None:
    """Why a kernel through Triton cannot run a request, or None.

    Args:
        widest: head_dim whose blocks fit in shared memory.
    """
    width = request.head_dim
    if request.platform != "gpu":
        return f"a Triton kernel, the platform is {request.platform}"
    if width & (width - 1) or not 16 <= width <= widest:
        return f"needs a head_dim that is a power of 2 from 16 to {widest}, this model has {width}"
    if find_spec(_TRITON) is None:
        return f"this version of JAX no longer has {_TRITON}"
    return None
