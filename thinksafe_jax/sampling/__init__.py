"""The sampler: requests in, completions out as they finish."""

from thinksafe_jax.sampling.attention import Case, choose, table_pages
from thinksafe_jax.sampling.engine import Engine
from thinksafe_jax.sampling.layout import Layout
from thinksafe_jax.sampling.programs import Slots, decode, empty_slots, prefill
from thinksafe_jax.sampling.requests import Completion, Request

__all__ = [
    "Case",
    "Completion",
    "Engine",
    "Layout",
    "Request",
    "Slots",
    "choose",
    "decode",
    "empty_slots",
    "prefill",
    "table_pages",
]
