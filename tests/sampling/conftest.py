"""A tiny model for the tests of the sampler."""

import jax.numpy as jnp
import pytest

from tests.support import save_tiny
from thinksafe_jax.models import load_config
from thinksafe_jax.weights import load_params


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Facts, parameters, and the same model in transformers."""
    folder = tmp_path_factory.mktemp("model")
    reference = save_tiny("qwen3", folder)
    cfg = load_config(folder)
    return cfg, load_params(folder, cfg, jnp.float32), reference
