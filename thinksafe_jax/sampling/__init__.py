"""The sampler: requests in, completions out as they finish."""

from thinksafe_jax.sampling.engine import Engine, EngineStats
from thinksafe_jax.sampling.requests import Completion, Request

__all__ = ["Completion", "Engine", "EngineStats", "Request"]
