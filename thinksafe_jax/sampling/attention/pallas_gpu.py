"""Paged decode attention by the Pallas kernel for GPU that comes with JAX."""

from importlib.util import find_spec

import jax
from jaxtyping import Array, Float, Int32

from thinksafe_jax.models import AttentionRequest, Implementation
from thinksafe_jax.sampling.attention._kernels import PIECE_TOKENS, page_refusal, scaled
from thinksafe_jax.sampling.kv_cache import KvPages

# JAX 0.11 calls it deprecated and names no other; where it is gone, "auto" takes `xla`
GPU_KERNEL = "jax.experimental.pallas.ops.gpu.paged_attention"


def gpu_paged_attention(
    q: Float[Array, "B N H"],
    pages: KvPages,
    table: Int32[Array, "B W"],
    lengths: Int32[Array, " B"],
    interpret: bool = False,
) -> Float[Array, "B N H"]:
    """As `xla.paged_attention`, by `jax.experimental.pallas.ops.gpu.paged_attention`."""
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

    out = paged_attention(
        scaled(q, pages),
        pages.keys,
        pages.values,
        table,
        lengths,
        *_scales(pages),
        k_splits=table.shape[1] * pages.page_size // PIECE_TOKENS,
        pages_per_compute_block=max(1, 128 // pages.page_size),
        interpret=interpret,
    )
    return out.astype(q.dtype)


def _scales(pages: KvPages) -> tuple[jax.Array, ...]:
    """The scales of int8 as the kernel takes them, `[K, pages, page_size]`; else none.

    They lie together in the pool, so this copies them: 3 % of it at head_dim 128.
    """
    return tuple(pages.scales[:, :, row] for row in range(2)) if pages.has_scales else ()


def refuses(request: AttentionRequest) -> str | None:
    """Why the kernel cannot run a request, or None."""
    head_dim = request.head_dim
    if request.platform != "gpu":
        return f"a Triton kernel, the platform is {request.platform}"
    if head_dim & (head_dim - 1) or head_dim < 16:
        return f"needs a head_dim that is a power of 2 from 16 on, this model has {head_dim}"
    if find_spec(GPU_KERNEL) is None:
        return f"this version of JAX no longer has {GPU_KERNEL}"
    return page_refusal(request)


IMPLEMENTATION = Implementation(gpu_paged_attention, refuses, order=1)
