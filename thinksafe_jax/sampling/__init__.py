"""The sampler: requests or texts in, completions out as they finish."""

from thinksafe_jax.sampling.attention import choose, table_pages
from thinksafe_jax.sampling.drafted_decode import decode_drafted
from thinksafe_jax.sampling.drafting import draft_shape
from thinksafe_jax.sampling.engine import Engine
from thinksafe_jax.sampling.held_params import heads_first
from thinksafe_jax.sampling.kv_cache import KvCache
from thinksafe_jax.sampling.layout import Layout
from thinksafe_jax.sampling.next_token import DRAW_VERSION, draws_as_before, token_logprobs
from thinksafe_jax.sampling.programs import DecodeSpec, Slots, decode, empty_slots, prefill
from thinksafe_jax.sampling.requests import Completion, Drawn, Request
from thinksafe_jax.sampling.sampling_options import Options
from thinksafe_jax.sampling.stats import EngineStats

__all__ = [
    "DRAW_VERSION",
    "Completion",
    "DecodeSpec",
    "Drawn",
    "Engine",
    "EngineStats",
    "KvCache",
    "Layout",
    "Options",
    "Request",
    "Slots",
    "choose",
    "decode",
    "decode_drafted",
    "draft_shape",
    "draws_as_before",
    "empty_slots",
    "heads_first",
    "prefill",
    "table_pages",
    "token_logprobs",
]
