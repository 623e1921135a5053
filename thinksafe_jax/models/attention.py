"""Causal self-attention over fresh tokens: training, prefill and the guard.

Several rows may share one sequence (packing): a token sees the tokens of its own segment at or
before it. One interface, and an implementation for each platform:

    splash   TPU: Pallas kernel, knows segments, skips blocks above the diagonal
    cudnn    GPU: fused kernel; segments are a mask, which is quadratic, so for short sequences
    blocks   anywhere: XLA, memory linear in the length, skips blocks of other rows
    plain    anywhere: XLA, one score matrix, for sequences of a block or two

`attention_table` says which of them would run and why each of the others would not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.models.block_attention import BLOCK, block_attention, plain_attention

ATTENTION_BLOCK = BLOCK  # longest sequence whose scores are one matrix
_SPLASH_BLOCK = 512  # queries and keys of a kernel step
_CUDNN_MASK_LENGTH = 8192  # its mask takes 2 T^2 bytes a sequence: 128 MiB
SAVED_NAMES = ("attention_out", "attention_lse")  # what the remat policy "attention" keeps


@dataclass(frozen=True)
class Call:
    """What decides which implementation can run."""

    platform: str  # tpu | gpu | cpu
    length: int
    head_dim: int
    dtype: str


def _splash_refusal(call: Call) -> str:
    if call.platform != "tpu":
        return f"a Pallas kernel for TPU, not {call.platform}"
    if call.length % 128:
        return f"length {call.length} is no multiple of 128"
    return "" if call.head_dim % 128 == 0 else f"head_dim {call.head_dim} is no multiple of 128"


def _cudnn_refusal(call: Call) -> str:
    if call.platform != "gpu":
        return f"a kernel for NVIDIA GPUs, not {call.platform}"
    if call.dtype not in ("bfloat16", "float16"):
        return f"takes bfloat16 or float16, not {call.dtype}"
    if call.head_dim > 128 or call.head_dim % 8:
        return f"head_dim {call.head_dim} is no multiple of 8 up to 128"
    if call.length > _CUDNN_MASK_LENGTH:
        return f"its mask of {call.length} x {call.length} is too large"
    return ""


def _blocks_refusal(call: Call) -> str:
    short = call.length <= ATTENTION_BLOCK
    return f"length {call.length} is one block" if short else ""


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    length, heads, head_dim = q.shape[1:]
    size = next(s for s in (_SPLASH_BLOCK, 256, 128) if length % s == 0)
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

    def one(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> Any:
        return kernel(q, k, v, segment_ids=splash.SegmentIds(segments, segments))

    queries, keys, values = (jnp.swapaxes(x, 1, 2) for x in (q * head_dim**-0.5, k, v))
    return jnp.swapaxes(jax.vmap(one)(queries, keys, values, segment_ids), 1, 2)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=same, is_causal=True, implementation="cudnn")


Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

# in order of preference: name -> (why it cannot run, or nothing; the implementation)
_IMPLEMENTATIONS: dict[str, tuple[Callable[[Call], str], Attention]] = {
    "splash": (_splash_refusal, _splash),
    "cudnn": (_cudnn_refusal, _cudnn),
    "blocks": (_blocks_refusal, partial(block_attention, saved_names=SAVED_NAMES)),
    "plain": (lambda call: "", plain_attention),
}


def attention_table(call: Call) -> dict[str, str]:
    """Why each implementation cannot run `call`; empty text where it can. The first such runs."""
    return {name: refusal(call) for name, (refusal, _) in _IMPLEMENTATIONS.items()}


def causal_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    platform: str | None = None,
) -> jax.Array:
    """Attention within segments, softmax in float32, by the best implementation that can.

    Args:
        q: `[B, T, N, H]`.
        k, v: `[B, T, K, H]`, N a multiple of K.
        segment_ids: i32 `[B, T]`; tokens of a segment are neighbours; 0 is padding, which sees only
            padding.
        platform: tpu, gpu or cpu: what the program is compiled for; default: what JAX runs on.

    Returns:
        `[B, T, N, H]` in q's dtype.
    """
    call = Call(platform or jax.default_backend(), q.shape[1], q.shape[3], q.dtype.name)
    name = next(name for name, refused in attention_table(call).items() if not refused)
    return _IMPLEMENTATIONS[name][1](q, k, v, segment_ids)
