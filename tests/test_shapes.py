"""Shapes and dtypes in signatures are checked while the tests run (shapes.py, conftest.py)."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from thinksafe_jax.models import causal_attention, rms_norm


def test_what_a_signature_does_not_say_is_refused_at_the_call():
    x, segments = jnp.ones((2, 4, 4, 8)), jnp.ones((2, 4), jnp.int32)
    assert causal_attention(x, x, x, segments).shape == x.shape
    with pytest.raises(TypeCheckError, match="causal_attention"):
        causal_attention(x, x[:1], x, segments)
    with pytest.raises(TypeCheckError, match="causal_attention"):
        causal_attention(x, x, x, segments.astype(jnp.float32))
    with pytest.raises(TypeCheckError, match="rms_norm"):
        rms_norm(x, jnp.ones(9), 1e-6)
    with pytest.raises(TypeCheckError, match="rms_norm"):  # numpy where it is not said
        rms_norm(x, np.ones(8, np.float32), 1e-6)
