"""Attention by cuDNN: a fused kernel for GPU.

Segments are a mask, which is quadratic in the length, so it takes short sequences only.
"""

import jax
from jaxtyping import Array, Float, Int

from thinksafe_jax.models.attention_request import AttentionRequest, Implementation

_MASK_LENGTH = 8192  # the mask takes 2 T^2 bytes a sequence: 128 MiB


def cudnn_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Attention within segments; shapes as in `causal_attention`."""
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=same, is_causal=True, implementation="cudnn")


def refuses(request: AttentionRequest) -> str | None:
    """Why the kernel cannot run a request, or None."""
    if request.platform != "gpu":
        return f"a kernel for NVIDIA GPUs, not {request.platform}"
    if request.dtype not in ("bfloat16", "float16"):
        return f"takes bfloat16 or float16, not {request.dtype}"
    if request.head_dim > 128 or request.head_dim % 8:
        return f"head_dim {request.head_dim} is no multiple of 8 up to 128"
    if request.length > _MASK_LENGTH:
        return f"its mask of {request.length} x {request.length} is too large"
    return None


IMPLEMENTATION = Implementation(cudnn_attention, refuses, order=2)
