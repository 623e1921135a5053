"""Sections that check themselves, so that a mistake is named on the line where it is made."""

from dataclasses import replace

import numpy as np
import pytest

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1}, "sampling.temperature: is -1; expected a finite number >= 0"),
        ({"temperature": float("nan")}, "sampling.temperature: is nan; expected a finite"),
        ({"temperature": "0.6"}, "sampling.temperature: is '0.6'; expected a finite number >= 0"),
        ({"top_p": 2}, "sampling.top_p: is 2; expected a number > 0 and <= 1"),
        ({"top_p": 0}, "sampling.top_p: is 0; expected a number > 0 and <= 1"),
        ({"top_k": -3}, "sampling.top_k: is -3; expected a number >= 0"),
        ({"top_k": 2.5}, "sampling.top_k: is 2.5; expected a whole number"),
        ({"min_p": 2}, "sampling.min_p: is 2; expected a number >= 0 and <= 1"),
        ({"max_new_tokens": 0}, "sampling.max_new_tokens: is 0; expected a number >= 1"),
        ({"temperature": -1, "top_p": 2}, "sampling.temperature: .*; sampling.top_p: "),
    ],
    ids=str,
)
def test_sampling_options_out_of_range_are_refused_where_they_are_written(wrong, message):
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**wrong)
    with pytest.raises(ConfigError, match=message):
        replace(SamplingConfig(), **wrong)


def test_numbers_of_numpy_are_numbers():
    assert SamplingConfig(np.float32(1), np.float64(1), np.int32(0), max_new_tokens=np.int64(5))
