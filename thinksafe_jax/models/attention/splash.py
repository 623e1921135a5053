"""Attention by the Pallas kernel for TPU that comes with JAX.

It knows segments, and skips the blocks above the diagonal.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from thinksafe_jax.models.attention_request import SAVED_NAMES, AttentionRequest, Implementation

_BLOCK = 512  # queries and keys of a kernel step


def splash_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Attention within segments; shapes as in `causal_attention`."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    length, heads, head_dim = q.shape[1:]
    size = next(s for s in (_BLOCK, 256, 128) if length % s == 0)
    sizes = splash.BlockSizes(
        block_q=size,
        block_kv=size,
        block_kv_compute=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_kv_dkv_compute=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
    mask = splash.MultiHeadMask([splash.CausalMask((length, length)) for _ in range(heads)])
    kernel = splash.make_splash_mha_single_device(
        mask, block_sizes=sizes, residual_checkpoint_name=SAVED_NAMES[0]
    )

    def attend_row(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> Any:
        return kernel(q, k, v, segment_ids=splash.SegmentIds(segments, segments))

    queries, keys, values = (jnp.swapaxes(x, 1, 2) for x in (q * head_dim**-0.5, k, v))
    return jnp.swapaxes(jax.vmap(attend_row)(queries, keys, values, segment_ids), 1, 2)


def refuses(request: AttentionRequest) -> str | None:
    """Why the kernel cannot run a request, or None."""
    if request.platform != "tpu":
        return f"a Pallas kernel for TPU, not {request.platform}"
    if request.length % 128:
        return f"length {request.length} is no multiple of 128"
    if request.head_dim % 128:
        return f"head_dim {request.head_dim} is no multiple of 128"
    return None


IMPLEMENTATION = Implementation(splash_attention, refuses, order=1)
