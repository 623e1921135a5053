"""The sampler: requests in, completions out as they finish."""

from thinksafe_jax.sampling.engine import Engine
from thinksafe_jax.sampling.requests import Completion, Request
from thinksafe_jax.sampling.stats import EngineStats

__all__ = ["Completion", "Engine", "EngineStats", "Request"]
