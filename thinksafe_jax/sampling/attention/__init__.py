"""Decode attention behind one interface: which implementation runs, and why the others do not.

Every implementation is a function (q `[B, N, H]`, pool, table i32 `[B, W]`, lengths i32 `[B]`) ->
`[B, N, H]`, see `xla.paged_attention`. The table has whole multiples of `TABLE_TOKENS` tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import jax

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.sampling.attention.pallas import (
    GPU_KERNEL,
    PIECE_TOKENS,
    gpu_paged_attention,
    tpu_paged_attention,
)
from thinksafe_jax.sampling.attention.xla import BLOCK_TOKENS, one_walk, paged_attention
from thinksafe_jax.sampling.kv_cache import Pool

PagedAttention = Callable[[jax.Array, Pool, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Case:
    """What the choice depends on."""

    platform: str  # cpu | tpu | gpu
    head_dim: int
    page_size: int


@dataclass(frozen=True)
class Implementation:
    """One way to compute decode attention.

    Attributes:
        refuses: why it cannot run a case, or None.
    """

    name: str
    attend: PagedAttention
    refuses: Callable[[Case], str | None]


def _tpu_refuses(case: Case) -> str | None:
    if case.platform != "tpu":
        return f"a TPU kernel, the platform is {case.platform}"
    if case.head_dim % 128:
        return f"needs a head_dim that 128 divides, this model has {case.head_dim}"
    return _page_refusal(case)


def _gpu_refuses(case: Case) -> str | None:
    if case.platform != "gpu":
        return f"a Triton kernel, the platform is {case.platform}"
    if case.head_dim & (case.head_dim - 1) or case.head_dim < 16:
        return f"needs a head_dim that is a power of 2 from 16 on, this model has {case.head_dim}"
    if find_spec(GPU_KERNEL) is None:
        return f"this version of JAX no longer has {GPU_KERNEL}"
    return _page_refusal(case)


def _page_refusal(case: Case) -> str | None:
    if case.page_size < 16 or case.page_size & (case.page_size - 1) or case.page_size > 128:
        return f"needs pages of 16, 32, 64 or 128 tokens, engine.page_size is {case.page_size}"
    return None


# in the order of preference
IMPLEMENTATIONS = (
    Implementation("pallas-tpu", tpu_paged_attention, _tpu_refuses),
    Implementation("pallas-gpu", gpu_paged_attention, _gpu_refuses),
    Implementation("xla", paged_attention, lambda case: None),
)

# what an accelerator without a kernel runs, for compiling its program elsewhere
_COMPILED_ONLY = Implementation(
    "xla-one-walk", one_walk, lambda case: "for programs that are only compiled"
)


def table_pages(page_size: int) -> int:
    """A slot's table has a multiple of this many pages: whole blocks for every implementation."""
    return math.lcm(max(PIECE_TOKENS, BLOCK_TOKENS), page_size) // page_size


def implementation(name: str) -> Implementation:
    """By name.

    Raises:
        ConfigError: unknown name.
    """
    for one in (*IMPLEMENTATIONS, _COMPILED_ONLY):
        if one.name == name:
            return one
    names = ", ".join(one.name for one in IMPLEMENTATIONS)
    raise ConfigError(f"engine.attention is {name!r}; choose auto or one of {names}")


def choose(case: Case, wanted: str = "auto") -> Implementation:
    """The first implementation that runs the case, or the wanted one.

    Raises:
        ConfigError: the wanted one is unknown or refuses; the message says why.
    """
    if wanted == "auto":
        return next(one for one in IMPLEMENTATIONS if one.refuses(case) is None)
    one = implementation(wanted)
    reason = one.refuses(case)
    if reason:
        raise ConfigError(f"engine.attention: {wanted} cannot run here: {reason}; set auto")
    return one


def refusals(case: Case) -> dict[str, str | None]:
    """For every implementation why it is refused, None where it runs; for `doctor` and the log."""
    return {one.name: one.refuses(case) for one in IMPLEMENTATIONS}
