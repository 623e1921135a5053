"""Decode attention: every file here is one implementation, found by its name.

Each computes (q `[B, N, H]`, pages of one layer, table i32 `[B, W]`, lengths i32 `[B]`) ->
`[B, N, H]`, see `xla.paged_attention`, and says which requests it refuses and why. The table holds
a multiple of `TABLE_TOKENS` tokens. `xla` refuses nothing, and is what the others are tested
against.
"""

import logging
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import AttentionRequest, Implementation, first_to_run, refusals
from thinksafe_jax.sampling.kv_cache import KvPages
from thinksafe_jax.variants import Variants

_log = logging.getLogger(__name__)

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
    table = refusals(IMPLEMENTATIONS, request)
    for name, reason in table.items():
        _log.debug("decode attention %s: %s", name, reason or "can run")
    if wanted == "auto":
        name = first_to_run(IMPLEMENTATIONS, request)
        if request.kv_dtype == "int8" and (better := _of_platform(table, request.platform)):
            _log.warning("engine.kv_dtype int8 is read by %s here: %s", name, "; ".join(better))
        return name
    reason = IMPLEMENTATIONS[wanted].refuses(request)
    if reason:
        raise ConfigError(f"engine.attention: {wanted} cannot run here: {reason}; set auto")
    return wanted


def _of_platform(table: Mapping[str, str | None], platform: str) -> list[str]:
    """Why each kernel of an accelerator is refused, where all of them are."""
    kernels = {name: why for name, why in table.items() if name.startswith(f"pallas-{platform}")}
    return [f"{name} {why}" for name, why in kernels.items()] if all(kernels.values()) else []


def attend_queries(
    name: str,
    q: Float[Array, "B Q N H"],
    pages: KvPages,
    table: Int32[Array, "B W"],
    lengths: Int32[Array, "B Q"],
) -> Float[Array, "B Q N H"]:
    """Attention of Q queries of each slot by the implementation `name`: `[B, Q, N, H]`.

    Where it takes one query a slot, each query is a row of its own with the slot's pages: right,
    but keys and values are then read Q times.

    Args:
        q: `[B, Q, N, H]`.
        lengths: i32 `[B, Q]`, of each query, not falling along Q.
    """
    implementation, queries = IMPLEMENTATIONS[name], q.shape[1]
    if queries == 1:
        return implementation.attend(q[:, 0], pages, table, lengths[:, 0])[:, None]
    if implementation.several is not None:
        return implementation.several(q, pages, table, lengths)
    rows = q.reshape(-1, *q.shape[2:])
    tables = jnp.repeat(table, queries, axis=0)
    return implementation.attend(rows, pages, tables, lengths.reshape(-1)).reshape(q.shape)
