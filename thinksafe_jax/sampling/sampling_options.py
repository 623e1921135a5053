"""Sampling options as arrays: the one way from a request's `SamplingConfig` to the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thinksafe_jax.config import SamplingConfig

Column = Any  # an array: numpy on the host, of JAX in a program


class Options(NamedTuple):
    """Sampling options of each row, `[B]` each; a new option of `SamplingConfig` is a line here.

    Fields have the names of the recipe's; `OPTION_DTYPES` has their dtypes.
    """

    temperature: Column  # f32; 0 is greedy
    top_k: Column  # i32; 0 is off
    top_p: Column  # f32
    min_p: Column  # f32

    @staticmethod
    def of(samplings: Sequence[SamplingConfig], rows: int = 0) -> "Options":
        """Host arrays with the options of each request.

        Args:
            rows: length of the arrays, zeros at their end; at least one for each request.
        """
        columns = []
        for name, dtype in OPTION_DTYPES._asdict().items():
            column = np.zeros(max(rows, len(samplings)), dtype)
            column[: len(samplings)] = [getattr(sampling, name) for sampling in samplings]
            columns.append(column)
        return Options(*columns)


OPTION_DTYPES = Options(temperature=np.float32, top_k=np.int32, top_p=np.float32, min_p=np.float32)
# what an idle slot draws: greedy, so that it never asks for the draw over the whole vocabulary
IDLE = SamplingConfig(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)


def mass_limit(options: Options) -> jax.Array:
    """top_p, where 1 means everything: rounding must not cut the tail."""
    return jnp.where(options.top_p < 1, options.top_p, jnp.float32(jnp.inf))
