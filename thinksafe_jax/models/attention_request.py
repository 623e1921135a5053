"""Which implementation of attention runs, and why the others do not: for every kind of attention.

An implementation is a variant (`thinksafe_jax.variants`): a file of models/attention/ for fresh
tokens, of sampling/attention/ for the pages of the KV cache.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

SAVED_NAMES = ("attention_out", "attention_lse")  # what the remat policy "attention" keeps


@dataclass(frozen=True)
class AttentionRequest:
    """What decides which implementation can run.

    Attributes:
        platform: cpu | tpu | gpu: what the program is compiled for.
        head_dim: width of a head.
        dtype: of queries and keys, as "bfloat16".
        length: tokens of a sequence; 0 while decoding, where lengths differ.
        page_size: tokens of a page of the KV cache; 0 where keys lie in no pages.
        kv_dtype: in which the pages are stored, as "int8"; "" where keys lie in no pages.
    """

    platform: str
    head_dim: int
    dtype: str = ""
    length: int = 0
    page_size: int = 0
    kv_dtype: str = ""


@dataclass(frozen=True)
class Implementation(Generic[F]):
    """One way to compute attention.

    Attributes:
        attend: computes it.
        refuses: why it cannot run a request, or None.
        order: those of a lower number are preferred.
        several: of decode: the same for several queries of each slot, whose keys it reads once;
            None where it cannot mix numbers of queries.
    """

    attend: F
    refuses: Callable[[AttentionRequest], str | None]
    order: int
    several: F | None = None


def refusals(
    implementations: Mapping[str, Implementation], request: AttentionRequest
) -> dict[str, str | None]:
    """For every implementation why it is refused, None where it can run; the preferred first."""
    names = sorted(implementations, key=lambda name: (implementations[name].order, name))
    return {name: implementations[name].refuses(request) for name in names}


def first_to_run(implementations: Mapping[str, Implementation], request: AttentionRequest) -> str:
    """Name of the preferred implementation that can run a request; one of them always can."""
    table = refusals(implementations, request)
    return next(name for name, reason in table.items() if reason is None)
