"""Decode attention: every file here is one implementation, found by its name.

Each computes (q `[B, N, H]`, pages of one layer, table i32 `[B, W]`, lengths i32 `[B]`) ->
`[B, N, H]`, see `xla.paged_attention`, and says which requests it refuses and why. The table holds
a multiple of `TABLE_TOKENS` tokens. `xla` refuses nothing, and is what the others are tested
against.
"""

import math
from collections.abc import Callable

import jax

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import AttentionRequest, Implementation, first_to_run
from thinksafe_jax.sampling.kv_cache import KvPages
from thinksafe_jax.variants import Variants

PagedAttention = Callable[[jax.Array, KvPages, jax.Array, jax.Array], jax.Array]
TABLE_TOKENS = 512  # what every implementation reads at a time divides it

IMPLEMENTATIONS: Variants[Implementation[PagedAttention]] = Variants(
    __name__, "IMPLEMENTATION", "engine.attention"
)


def table_pages(page_size: int) -> int:
    """A slot's table has a multiple of this many pages: whole blocks for every implementation."""
    return math.lcm(TABLE_TOKENS, page_size) // page_size


def choose(request: AttentionRequest, wanted: str = "auto") -> str:
    """Name of the implementation that runs: the preferred one that can, or the wanted one.

    Raises:
        ConfigError: the wanted one is unknown or refuses; the message says why.
    """
    if wanted == "auto":
        return first_to_run(IMPLEMENTATIONS, request)
    reason = IMPLEMENTATIONS[wanted].refuses(request)
    if reason:
        raise ConfigError(f"engine.attention: {wanted} cannot run here: {reason}; set auto")
    return wanted
