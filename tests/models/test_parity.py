"""The decoder equals transformers in float32 for every family and odd shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import TINY, Oracle, save_tiny
from thinksafe_jax.models import forward, load_config, logits
from thinksafe_jax.weights import load_params

pytestmark = pytest.mark.slow

torch = Oracle("torch")


@pytest.mark.parametrize("name", TINY)
def test_logits_equal_transformers(name, tmp_path):
    reference = save_tiny(name, tmp_path)
    cfg = load_config(tmp_path)
    params = load_params(tmp_path, cfg, jnp.float32)
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 60), dtype=np.int32)
    with torch.no_grad():
        expected = reference(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    positions = jnp.broadcast_to(jnp.arange(60, dtype=jnp.int32), (2, 60))
    hidden = forward(params, cfg, jnp.asarray(tokens), positions, jnp.ones((2, 60), jnp.int32))
    np.testing.assert_allclose(logits(params, cfg, hidden), expected, atol=1e-4, rtol=0)


def test_packed_rows_do_not_see_each_other(tmp_path):
    """Two rows in one sequence give the logits of two sequences; long ones go in blocks."""
    save_tiny("qwen3", tmp_path, max_position_embeddings=2048)
    cfg = load_config(tmp_path)
    params = load_params(tmp_path, cfg, jnp.float32)
    rows = [np.arange(n, dtype=np.int32) * 7 % cfg.vocab_size for n in (700, 90)]

    def run(tokens, positions, segments):
        arrays = (jnp.asarray(x, jnp.int32)[None] for x in (tokens, positions, segments))
        return forward(params, cfg, *arrays)[0]

    packed = run(
        np.concatenate([*rows, np.zeros(10)]),
        np.concatenate([np.arange(700), np.arange(90), np.zeros(10)]),
        np.concatenate([np.full(700, 1), np.full(90, 2), np.zeros(10)]),
    )
    alone = [run(row, np.arange(len(row)), np.ones(len(row))) for row in rows]
    np.testing.assert_allclose(packed[:700], alone[0], atol=2e-5)
    np.testing.assert_allclose(packed[700:790], alone[1], atol=2e-5)


def test_attention_memory_grows_linearly_with_length(tmp_path):
    """Twice the length takes about twice the memory, forward and backward; scores would take 4x."""
    save_tiny("llama", tmp_path)
    cfg = load_config(tmp_path)
    params = load_params(tmp_path, cfg, jnp.float32)

    def loss(params, tokens, positions, segments):
        return forward(params, cfg, tokens, positions, segments, remat="layer").sum()

    def temporary_bytes(length):
        ints = jax.ShapeDtypeStruct((1, length), jnp.int32)
        compiled = jax.jit(jax.grad(loss)).lower(params, ints, ints, ints).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(4096) / temporary_bytes(2048) < 2.5
