"""Temperature, top-k, top-p and min-p against a sort in float64; draws against their law."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.sampling.next_token import DRAW_VERSION, sample
from thinksafe_jax.sampling.sampling_options import OPTION_DTYPES, Options
from thinksafe_jax.sampling.vocab_split import VocabSplit, draw_by_mass, top_candidates

pytestmark = pytest.mark.slow

GOLDEN = {
    "unfiltered": [487, 521, 573, 463, 232, 804, 589, 905],
    "wide": [481, 521, 578, 462, 231, 807, 589, 904],
    "filtered": [845, 717, 261, 584, 802, 674, 701, 912],
    "greedy": [322, 778, 733, 860, 28, 845, 376, 45],
}

draw = jax.jit(sample)  # one program for each shape, shared by the tests


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
    tokens, logprobs = draw(jnp.broadcast_to(jnp.asarray(logits), (draws, vocabulary)), keys, batch)
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

    def drawn(second, options):
        columns = (jnp.asarray(column) for column in zip(*options, strict=True))
        t, k, p, m = columns
        batch = Options(*(x.astype(jnp.float32) for x in (t,)), k.astype(jnp.int32),
                        p.astype(jnp.float32), m.astype(jnp.float32))  # fmt: skip
        return sample(jnp.asarray(np.concatenate([peaked, second])), keys, batch)[0][0]

    alone = drawn(peaked, [(0.6, 0, 0.9, 0.0)] * 2)
    beside_flat = drawn(flat, [(0.6, 0, 0.9, 0.0), (1.0, 0, 0.99, 0.0)])
    assert alone == beside_flat


def options_of(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The same options for so many rows."""
    return Options(
        jnp.full(rows, temperature, jnp.float32),
        jnp.full(rows, top_k, jnp.int32),
        jnp.full(rows, top_p, jnp.float32),
        jnp.full(rows, min_p, jnp.float32),
    )


def inverse(law, uniform):
    """The token at a place of the cumulative mass, by id, and how near the place is to an end."""
    ids = np.array(sorted(law))
    ends = np.cumsum([law[i] for i in ids])
    at = min(int(np.searchsorted(ends, uniform, side="right")), len(ids) - 1)
    return int(ids[at]), np.abs(ends - uniform).min()


WHOLE = [
    {},  # unfiltered
    {"temperature": 0.7},
    {"top_p": 0.95},  # and wide: the filters keep more than 64 tokens
    {"top_k": 500},
    {"top_k": 500, "top_p": 0.8},
    {"top_p": 0.999, "min_p": 1e-4},
]


@pytest.mark.parametrize("options", WHOLE, ids=str)
@pytest.mark.parametrize("kind", ["flat", "ties", "masked"])
def test_a_draw_over_the_vocabulary_inverts_the_cumulative_mass(kind, options):
    """Token by token, in the order of the vocabulary, with the row's one uniform number."""
    rng, rows, vocabulary = np.random.default_rng(3), 11, 5_003
    logits = (0.5 * rng.normal(size=(rows, vocabulary))).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits, 1)
    if kind == "masked":  # what a model may not say, in both of the usual ways
        logits[:, ::3], logits[:, 1::7] = -np.inf, -1e9
    keys = jax.random.split(jax.random.key(5), rows)
    tokens, _ = draw(jnp.asarray(logits), keys, options_of(rows, **options))
    uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **options}
    for row, place, token in zip(logits, np.asarray(uniform), tokens.tolist(), strict=True):
        expected, near = inverse(kept_set(row, **settings), float(place))
        assert token == expected or near < 2e-6


@pytest.mark.parametrize("place", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_a_token_without_mass_is_never_drawn(place):
    """Not at either end of the uniform numbers, where rounding could point beside the mass."""
    scores = np.full((3, 4096), -np.inf, np.float32)
    scores[0, [7, 3000]] = 0.0
    scores[1, 4095] = -80.0
    scores[2, 1000:1900] = np.linspace(-3, 3, 900)
    uniform = jnp.full(3, place, jnp.float32)
    tokens = draw_by_mass(jnp.asarray(scores), jnp.exp, uniform, VocabSplit(None, 4096))
    assert np.isfinite(scores[np.arange(3), np.asarray(tokens)]).all()


@pytest.mark.parametrize("options", [*WHOLE, {"top_k": 20, "top_p": 0.95}], ids=str)
def test_a_split_vocabulary_draws_the_same(options):
    rng, rows, vocabulary = np.random.default_rng(4), 6, 4_096
    logits = jnp.asarray(0.5 * rng.normal(size=(rows, vocabulary)), jnp.float32)
    keys, settings = jax.random.split(jax.random.key(6), rows), options_of(rows, **options)
    mesh = jax.make_mesh((4,), ("tp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(
        lambda part, keys, settings: sample(part, keys, settings, ("tp",)),
        mesh=mesh, in_specs=(P(None, "tp"), P(), P()), out_specs=(P(), P()), check_vma=False,
    )  # fmt: skip
    alone, logprobs = draw(logits, keys, settings)
    tokens, split_logprobs = jax.jit(split)(logits, keys, settings)
    assert tokens.tolist() == alone.tolist()
    np.testing.assert_allclose(logprobs, split_logprobs, atol=1e-5)


def test_what_a_seed_means():
    """The contract DRAW_VERSION 2: another order of summation would be another version.

    All places lie at least 1e-4 from the end of a token, where no rounding reaches.
    """
    logits = jnp.asarray(np.random.default_rng(8).normal(size=(8, 1000)), jnp.float32)
    keys = jax.random.split(jax.random.key(37), 8)

    def drawn(**options):
        return draw(logits, keys, options_of(8, **options))[0].tolist()

    assert DRAW_VERSION == 2
    assert drawn() == GOLDEN["unfiltered"]
    assert drawn(top_p=0.9) == GOLDEN["wide"]
    assert drawn(temperature=0.6, top_k=20, top_p=0.95) == GOLDEN["filtered"]
    assert drawn(temperature=0.0) == GOLDEN["greedy"]


def test_every_option_of_the_recipe_reaches_the_device():
    """A field that is no option says how much is drawn, not how."""
    fields = {field.name for field in dataclasses.fields(SamplingConfig)}
    assert fields == {*Options._fields, "max_new_tokens"}
    samplings = [SamplingConfig(0.5, 0.25, 7, 0.125, 9), SamplingConfig()]
    options = Options.of(samplings, rows=3)
    for name, column in options._asdict().items():
        assert column.dtype == getattr(OPTION_DTYPES, name)
        np.testing.assert_allclose(column, [*(getattr(s, name) for s in samplings), 0], rtol=1e-6)
