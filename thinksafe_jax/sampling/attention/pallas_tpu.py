"""Paged decode attention by the Pallas kernel for TPU that comes with JAX."""

from jaxtyping import Array, Float, Int32

from thinksafe_jax.models import Implementation
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


IMPLEMENTATION = Implementation(tpu_paged_attention, tpu_refusal, order=1, several=several_queries)
