"""Temperature, top-k, top-p and min-p against a sort in float64; draws against their law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thinksafe_jax.sampling.next_token import Options, sample, top_candidates


def kept_set(logits, temperature, top_k, top_p, min_p):
    """Token -> probability by the definition: sort, temperature, top-k, top-p over the rest."""
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled, kind="stable")
    if top_k:
        order = order[:top_k]
    mass = np.exp(scaled[order] - scaled[order].max())
    mass /= mass.sum()
    keep = (np.cumsum(mass) - mass < top_p) & (mass >= min_p * mass[0])
    keep[0] = True
    return dict(zip(order[keep].tolist(), mass[keep] / mass[keep].sum(), strict=True))


ROWS = {
    "peaked": lambda rng, v: 4 * rng.normal(size=v),
    "flat": lambda rng, v: 0.1 * rng.normal(size=v),
    "ties": lambda rng, v: rng.integers(0, 4, v).astype(float),
    "one token": lambda rng, v: np.where(np.arange(v) == 7, 50.0, 0.0),
}
OPTIONS = [
    (0.6, 20, 0.95, 0.0),  # Qwen3
    (0.6, 0, 0.95, 0.0),  # R1-Distill: top-p alone
    (1.0, 0, 1.0, 0.0),  # everything
    (0.7, 5, 1.0, 0.0),
    (1.0, 0, 1.0, 0.2),
    (0.9, 100, 0.9, 0.05),  # more than the candidates hold
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("vocabulary", [40, 300, 10_000])
def test_draws_follow_the_definition(kind, options, vocabulary):
    """Every draw lies in the kept set, and the draws of a small set follow its law."""
    rng = np.random.default_rng(vocabulary)
    logits = ROWS[kind](rng, vocabulary).astype(np.float32)
    law = kept_set(logits, *options)
    draws = 400
    temperature, top_k, top_p, min_p = options
    batch = Options(
        jnp.full(draws, temperature, jnp.float32),
        jnp.full(draws, top_k, jnp.int32),
        jnp.full(draws, top_p, jnp.float32),
        jnp.full(draws, min_p, jnp.float32),
    )
    keys = jax.random.split(jax.random.key(0), draws)
    tokens, logprobs = jax.jit(sample)(
        jnp.broadcast_to(jnp.asarray(logits), (draws, vocabulary)), keys, batch
    )
    seen, counts = np.unique(np.asarray(tokens), return_counts=True)
    assert set(seen.tolist()) <= set(law)
    exact = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    np.testing.assert_allclose(logprobs, exact[np.asarray(tokens)], atol=1e-4)
    if len(law) <= 20:
        found = dict(zip(seen.tolist(), counts / draws, strict=True))
        for token, probability in law.items():
            spread = 5 * np.sqrt(probability * (1 - probability) / draws) + 1e-9
            assert abs(found.get(token, 0.0) - probability) <= spread, (token, law, found)


def test_greedy_takes_the_first_of_equal_maxima():
    logits = jnp.asarray([[0.0, 3.0, 3.0, 1.0]])
    ones = jnp.ones(1, jnp.float32)
    options = Options(0 * ones, jnp.zeros(1, jnp.int32), ones, 0 * ones)
    tokens, _ = sample(logits, jax.random.split(jax.random.key(0), 1), options)
    assert tokens.tolist() == [1]


@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "many ties"])
def test_two_stage_candidates_equal_top_k(levels):
    rng = np.random.default_rng(0)
    shape = (4, 20_011)
    values = rng.normal(size=shape) if levels is None else rng.integers(0, levels, shape)
    logits = jnp.asarray(values, jnp.float32)
    ours, expected = top_candidates(logits), jax.lax.top_k(logits, 64)
    np.testing.assert_array_equal(ours[0], expected[0])
    np.testing.assert_array_equal(ours[1], expected[1])


def test_a_row_does_not_depend_on_its_neighbours_options():
    """A flat neighbour that needs the whole vocabulary leaves the other rows' draws alone."""
    rng = np.random.default_rng(0)
    peaked = 6 * rng.normal(size=(1, 9000)).astype(np.float32)
    flat = np.zeros((1, 9000), np.float32)
    keys = jax.random.split(jax.random.key(3), 2)

    def draw(second, options):
        columns = (jnp.asarray(column) for column in zip(*options, strict=True))
        t, k, p, m = columns
        batch = Options(*(x.astype(jnp.float32) for x in (t,)), k.astype(jnp.int32),
                        p.astype(jnp.float32), m.astype(jnp.float32))  # fmt: skip
        return sample(jnp.asarray(np.concatenate([peaked, second])), keys, batch)[0][0]

    alone = draw(peaked, [(0.6, 0, 0.9, 0.0)] * 2)
    beside_flat = draw(flat, [(0.6, 0, 0.9, 0.0), (1.0, 0, 0.99, 0.0)])
    assert alone == beside_flat
