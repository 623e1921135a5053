"""Paged decode attention by the Pallas kernel for TPU that comes with JAX."""

from jaxtyping import Array, Float, Int32

from thinksafe_jax.models import AttentionRequest, Implementation
from thinksafe_jax.sampling.attention._kernels import PIECE_TOKENS, scaled, tpu_refusal
from thinksafe_jax.sampling.attention.pallas_tpu_queries import several_queries
from thinksafe_jax.sampling.kv_cache import KvPages


def tpu_paged_attention(
    q: Float[Array, "B N H"],
    pages: KvPages,
    table: Int32[Array, "B W"],
    lengths: Int32[Array, " B"],
) -> Float[Array, "B N H"]:
    """As `xla.paged_attention`, by `jax.experimental.pallas.ops.tpu.paged_attention`."""
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

    out = paged_attention(
        scaled(q, pages),
        pages.keys,
        pages.values,
        lengths,
        table,
        pages_per_compute_block=PIECE_TOKENS // pages.page_size,
    )
    return out.astype(q.dtype)


def refuses(request: AttentionRequest) -> str | None:
    """Why the kernel cannot run a request, or None."""
    if request.platform == "tpu" and request.kv_dtype == "int8":
        # its QuantizedTensor: float scales are broadcast to [K, pages, page_size, H] before it
        return (
            "with engine.kv_dtype int8 it widens the scales of the whole pool to head_dim at every "
            "step, several times the pool"
        )
    return tpu_refusal(request)


IMPLEMENTATION = Implementation(tpu_paged_attention, refuses, order=1, several=several_queries)
