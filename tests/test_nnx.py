"""The NNX module holds what `load_params` loads, and says what `forward` says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support import tiny_config
from tests.weights.kit import same_bits, small_checkpoint
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import declare, forward, init_params, logits, walk
from thinksafe_jax.nnx import CausalLM
from thinksafe_jax.weights import load_params, save_checkpoint

pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(0).integers(0, 64, (2, 11), dtype=np.int32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, *small_checkpoint(folder)


@pytest.fixture(scope="module")
def expected(checkpoint):
    """Logits of TOKENS, straight from `forward`."""
    _, cfg, params = checkpoint

    @jax.jit
    def score(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(11, dtype=jnp.int32), tokens.shape)
        hidden = forward(params, cfg, tokens, positions, jnp.ones_like(tokens))
        return logits(params, cfg, hidden)

    return score(params, TOKENS)


def test_from_pretrained_equals_forward(checkpoint, expected):
    folder, _cfg, params = checkpoint
    model = CausalLM.from_pretrained(str(folder), dtype=jnp.float32)
    assert same_bits(model.params, params)
    np.testing.assert_allclose(model(TOKENS), expected, atol=1e-5)


def test_split_and_merge_give_the_same_model(checkpoint, expected):
    _, cfg, params = checkpoint
    graph, state = nnx.split(CausalLM(cfg, params))
    assert same_bits(nnx.to_pure_dict(state), params)
    assert jax.tree.structure(nnx.to_pure_dict(state)) == jax.tree.structure(params)
    score = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))
    np.testing.assert_allclose(score(state, TOKENS), expected, atol=1e-5)
    np.testing.assert_allclose(
        nnx.jit(lambda m, x: m(x))(CausalLM(cfg, params), TOKENS), expected, atol=1e-5
    )


def test_the_arrays_are_held_and_not_copied(checkpoint):
    _, cfg, params = checkpoint
    held = jax.tree.leaves(CausalLM(cfg, params).params)
    assert all(a is b for a, b in zip(held, jax.tree.leaves(params), strict=True))


def test_every_parameter_carries_its_logical_axes():
    cfg = tiny_config(tie_word_embeddings=False, qkv_bias=True)
    state = nnx.state(nnx.eval_shape(lambda: CausalLM.random(cfg, nnx.Rngs(0))), nnx.Param)
    found = {path: leaf.get_metadata()["logical_axes"] for path, leaf in nnx.to_flat_state(state)}
    assert found == {
        path: ("layers", *param.axes) if path[0] == "layers" else param.axes
        for path, param in walk(declare(cfg))
    }


def test_random_weights_are_those_of_init_params():
    cfg, key = tiny_config(num_layers=1), nnx.Rngs(0).params()
    expected = jax.jit(init_params, static_argnums=0)(cfg, key)
    assert same_bits(CausalLM.random(cfg, nnx.Rngs(0)).params, expected)


def test_padding_at_the_end_changes_nothing(checkpoint, expected):
    _, cfg, params = checkpoint
    model = CausalLM(cfg, params)
    real = (jnp.arange(16, dtype=jnp.int32) < 11).astype(jnp.int32)
    padded = model(np.pad(TOKENS, [(0, 0), (0, 5)]), jnp.stack([real, real]))
    np.testing.assert_allclose(padded[:, :11], expected, atol=1e-5)


def test_changed_weights_are_exported(checkpoint, tmp_path):
    """What an NNX optimiser would write back reaches the checkpoint."""
    _, cfg, params = checkpoint
    model = CausalLM(cfg, params)
    model.final_norm[...] = 2 * model.final_norm[...]
    save_checkpoint(tmp_path / "out", model.params, cfg, {})
    again = load_params(tmp_path / "out", cfg, jnp.float32)
    np.testing.assert_array_equal(again["final_norm"], 2 * params["final_norm"])
    np.testing.assert_array_equal(params["final_norm"], np.ones_like(params["final_norm"]))


def test_a_model_that_is_not_there():
    with pytest.raises(InputError, match="no such directory, and not a Hub id"):
        CausalLM.from_pretrained("./nothing")
