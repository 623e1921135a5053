"""Causal self-attention over fresh tokens: training, prefill and the guard.

Several rows may share one sequence (packing): a token sees the tokens of its own segment at or
before it. Every file here is one implementation, in the order of preference:

    splash   TPU: Pallas kernel, knows segments, skips blocks above the diagonal
    flash    GPU: Pallas kernel, knows segments, skips blocks of other rows
    cudnn    GPU: fused kernel; segments are a mask, which is quadratic, so for short sequences
    blocks   anywhere: XLA, memory linear in the length, skips blocks of other rows
    plain    anywhere: XLA, one score matrix, for sequences of a block or two

`refusals(IMPLEMENTATIONS, request)` says which of them would run and why each other would not.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int

from thinksafe_jax.models.attention_request import (
    AttentionRequest,
    Implementation,
    first_to_run,
)
from thinksafe_jax.variants import Variants

ATTENTION_BLOCK = 256  # longest sequence whose scores are one matrix

# q [B, T, N, H], k and v [B, T, K, H], segment_ids i32 [B, T] -> [B, T, N, H]
Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

IMPLEMENTATIONS: Variants[Implementation[Attention]] = Variants(
    __name__, "IMPLEMENTATION", "causal attention"
)


def causal_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
    *,
    platform: str | None = None,
) -> Float[Array, "B T N H"]:
    """Attention within segments, softmax in float32, by the best implementation that can.

    Args:
        q: queries; N is a multiple of K.
        k, v: keys and values.
        segment_ids: i32; tokens of a segment are neighbours; 0 is padding, which sees only padding.
        platform: tpu, gpu or cpu: what the program is compiled for; default: what JAX runs on.

    Returns:
        In q's dtype.
    """
    request = AttentionRequest(
        platform or jax.default_backend(),
        head_dim=q.shape[3],
        dtype=q.dtype.name,
        length=q.shape[1],
    )
    return IMPLEMENTATIONS[first_to_run(IMPLEMENTATIONS, request)].attend(q, k, v, segment_ids)
