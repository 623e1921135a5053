"""The sampler: requests or texts in, completions out as they finish."""

from thinksafe_jax.sampling.attention import choose, table_pages
from thinksafe_jax.sampling.engine import Engine
from thinksafe_jax.sampling.held_params import heads_first
from thinksafe_jax.sampling.kv_cache import KvCache
from thinksafe_jax.sampling.layout import Layout
from thinksafe_jax.sampling.next_token import token_logprobs
from thinksafe_jax.sampling.programs import DecodeSpec, Slots, decode, empty_slots, prefill
from thinksafe_jax.sampling.requests import Completion, Drawn, Request
from thinksafe_jax.sampling.sampling_options import Options

__all__ = [
    "Completion",
    "DecodeSpec",
    "Drawn",
    "Engine",
    "KvCache",
    "Layout",
    "Options",
    "Request",
    "Slots",
    "choose",
    "decode",
    "empty_slots",
    "heads_first",
    "prefill",
    "table_pages",
    "token_logprobs",
]
