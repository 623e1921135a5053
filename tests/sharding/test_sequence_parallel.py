"""Attention over sequences that are cut: output and gradients are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.sharding.kit import TIED, phase
from tests.support import tiny_config
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import causal_attention
from thinksafe_jax.sharding import ModelMesh, attention_heads, sharding_problems, sharding_warnings
from thinksafe_jax.sharding.sequence_parallel import exchanged_heads
from thinksafe_jax.training import TrainingMesh

LENGTH = 48
# axes, query heads, KV heads; 7 queries of each KV head as in R1-Distill-Qwen-7B
CASES = {
    "2": ({"sequence": 2}, 8, 2),
    "4, a KV head for two devices": ({"sequence": 4}, 8, 2),
    "4 beside fsdp": ({"fsdp": 2, "sequence": 4}, 4, 4),
    "2 beside fsdp and tensor": ({"fsdp": 2, "sequence": 2, "tensor": 2}, 8, 4),
    "4, 28 heads as 32": ({"sequence": 4}, 14, 2),
    "3": ({"sequence": 3}, 6, 2),
}


def long_rows(axes: dict[str, int]):
    """Rows over fsdp, tokens over sequence, heads over tensor."""
    named = {name: (name,) if name in axes else () for name in ("fsdp", "sequence", "tensor")}
    return phase(
        axes,
        batch=named["fsdp"],
        sequence=named["sequence"],
        embed=named["fsdp"],
        heads=named["tensor"],
        kv_heads=named["tensor"],
        vocab=named["tensor"],
        mlp=named["tensor"],
    )


@pytest.mark.parametrize(("axes", "heads", "kv_heads"), CASES.values(), ids=CASES.keys())
def test_attention_and_its_gradients_equal_one_device(axes, heads, kv_heads):
    cfg = tiny_config(num_heads=heads, num_kv_heads=kv_heads)
    mesh = TrainingMesh.of_phase(long_rows(axes), cfg)
    keys = jax.random.split(jax.random.key(0), 4)
    q, out = (jax.random.normal(k, (2, LENGTH, heads, 16), jnp.float32) for k in keys[:2])
    k, v = (jax.random.normal(k, (2, LENGTH, kv_heads, 16), jnp.float32) for k in keys[2:])
    # rows that begin and end within a device's part, and go over several
    ends = jnp.asarray([[5, 31, 40], [17, 18, 48]], jnp.int32)
    place = jnp.arange(LENGTH, dtype=jnp.int32)
    segments = 1 + jnp.sum(place[None, :, None] >= ends[:, None], axis=-1).astype(jnp.int32)

    def weighted(attention):
        def total(q, k, v):
            return jnp.sum(attention(q, k, v, segments) * out)

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(q, k, v)

    expected, found = weighted(causal_attention), weighted(mesh.attention)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-5 * np.abs(one).max())


def test_heads_are_made_to_divide_over_the_devices():
    assert exchanged_heads(32, 8, 4) == (32, 8)  # Qwen3-8B
    assert exchanged_heads(32, 8, 16) == (32, 16)  # each KV head on two devices
    assert exchanged_heads(28, 4, 4) == (28, 4)  # R1-Distill-Qwen-7B
    assert exchanged_heads(28, 4, 8) == (32, 8)
    assert exchanged_heads(7, 1, 2) == (8, 2)


def test_a_plan_says_what_heads_of_zeros_cost():
    cfg, table = tiny_config(num_heads=14, num_kv_heads=2), long_rows({"sequence": 4})
    assert attention_heads(cfg, table) == 4
    assert sharding_warnings(cfg, table, 2) == [
        "14 query heads of a device are exchanged over sequence 4 as 16: 14% more FLOPs of "
        "attention"
    ]
    assert sharding_warnings(TIED, long_rows({"sequence": 4}), 2) == []


def test_only_training_cuts_sequences():
    table = long_rows({"fsdp": 2, "sequence": 4})
    assert sharding_problems(TIED, table, rows=2, cuts_sequences=True) == []
    with pytest.raises(ConfigError, match="only training can cut the tokens of a row"):
        ModelMesh.of_phase(table, TIED)
