"""What the Pallas kernels share.

They read only the pages below a slot's length. The work is cut into pieces of a fixed number of
tokens, never into a fixed number of pieces, so that the order in which a slot's sum is taken
depends on its own length alone.
"""

import jax
import jax.numpy as jnp

from thinksafe_jax.models import AttentionRequest
from thinksafe_jax.sampling.kv_cache import PAIRED_HEAD_DIM, KvPages

PIECE_TOKENS = 512


def scaled(q: jax.Array, pages: KvPages) -> jax.Array:
    """Queries `[B, N, H]` as the kernels take them, which leave the scale to the caller."""
    scaled = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    return scaled if pages.has_scales else scaled.astype(pages.keys.dtype)


def page_refusal(request: AttentionRequest) -> str | None:
    """Why pages of this size cannot be read, or None."""
    size = request.page_size
    if size < 16 or size & (size - 1) or size > 128:
        return f"needs pages of 16, 32, 64 or 128 tokens, engine.page_size is {size}"
    return None


def tpu_refusal(request: AttentionRequest, *, paired: bool = False) -> str | None:
    """Why a paged kernel for TPU cannot run a request, or None.

    Args:
        paired: the kernel reads pages in which values lie behind their keys.
    """
    if request.platform != "tpu":
        return f"a TPU kernel, the platform is {request.platform}"
    paired = paired and request.head_dim == PAIRED_HEAD_DIM and request.kv_dtype != "int8"
    if request.head_dim % 128 and not paired:
        # XLA stores pages of narrower heads with the page innermost, and copies the pool for it
        return f"needs a head_dim that 128 divides, this model has {request.head_dim}"
    return page_refusal(request)
