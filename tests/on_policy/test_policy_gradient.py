"""The loop's gradient is that of the expected reward: enumerated, and on a bandit.

Models of one layer over a handful of words: what is sampled is drawn by numpy from the model's own
distribution, everything behind it is the trainer's real step.
"""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny_config
from tests.training import kit
from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import forward, init_adapter, init_params, logits
from thinksafe_jax.training import Stream, StreamedExample, TrainingSetup, make_step, pack
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import init_state, make_gradient

pytestmark = pytest.mark.slow

V = 3
CFG = tiny_config(
    vocab_size=V, hidden_size=8, intermediate_size=8, num_heads=1, num_kv_heads=1, head_dim=8
)
CONFIG = TrainingConfig(
    objective="rollout-streams", kl="reverse", lora_r=2, lora_alpha=4.0, lora_dropout=0.0,
    batch_size=9, micro_batch_size=9, learning_rate=0.05, warmup_ratio=0.0, remat="none",
)  # fmt: skip


def model(seed=0):
    params = init_params(CFG, jax.random.key(seed), scale=0.7)
    lora = TrainingSetup(CFG, CONFIG).lora
    adapter = init_adapter(CFG, lora, jax.random.key(seed + 1))
    shaken = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(5), x.shape), adapter
    )
    return params, shaken, lora


def row(ids, start, weights, count=1.0, sampled=None, temperature=1.0, name="pg"):
    """A rollout of the tokens from `start` on, with one stream."""
    targets = len(ids) - 1

    def placed(values):
        whole = np.zeros(targets, np.float32)
        whole[start - 1 :] = values
        return whole

    facts = {"temperature": np.full(targets, temperature, np.float32)}
    facts["sampled"] = placed(0.0 if sampled is None else sampled)
    streams = {name: Stream(placed(weights), count)}
    tokens = np.asarray(ids, np.int32)
    mask = np.arange(len(ids)) >= start
    return StreamedExample("row", tokens, mask, facts=facts, streams=streams)


def log_p_of(params, adapter, lora, answers, heat=1.0):
    """Log-probability of each answer of two words behind the prompt 0, summed over its words."""
    tokens = jnp.asarray([[0, *answer] for answer in answers], jnp.int32)
    shape = tokens.shape
    positions = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    hidden = forward(
        params, CFG, tokens, positions, jnp.ones(shape, jnp.int32), adapter=adapter, lora=lora
    )
    log_p = jax.nn.log_softmax(logits(params, CFG, hidden) / heat, axis=-1)
    return jnp.sum(jnp.take_along_axis(log_p[:, :-1], tokens[:, 1:, None], -1)[..., 0], axis=1)


@pytest.mark.parametrize("heat", [1.0, 0.7])
def test_the_mean_gradient_of_rollouts_is_that_of_the_expected_reward(heat):
    """All nine answers of two words, each weighted by its probability: REINFORCE, enumerated."""
    params, adapter, lora = model()
    answers = list(product(range(V), repeat=2))
    rewards = np.random.default_rng(1).normal(size=len(answers)).astype(np.float32)

    def expected_reward(adapter):
        return jnp.sum(jnp.exp(log_p_of(params, adapter, lora, answers, heat)) * rewards)

    wanted = jax.jit(jax.grad(expected_reward))(adapter)
    chances = np.exp(np.asarray(log_p_of(params, adapter, lora, answers, heat)))
    # the denominator is 1: what is left is the sum over answers of p x reward x grad -log p
    rows = [
        row([0, *answer], 1, -p * r, count=1 / 9, temperature=heat)
        for answer, p, r in zip(answers, chances, rewards, strict=True)
    ]
    setup = TrainingSetup(CFG, CONFIG)
    batch = pack(rows, Layout(1, 9, 16), setup.objective.streams)
    _, gradient = jax.jit(make_gradient(setup))(adapter, params, batch, jax.random.key(0))
    # -log p with the weight -p r: its gradient is that of the expected reward
    for have, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-4, atol=1e-6)


def play(seed: int, shuffled: bool) -> float:
    """One word is drawn 16 times a step and rewarded if it is 2; the chance of it at the end."""
    params, _, lora = model(seed)
    setup = TrainingSetup(CFG, replace(CONFIG, batch_size=16, micro_batch_size=16))
    state = init_state(init_adapter(CFG, lora, jax.random.key(seed)), setup)
    step, rng = make_step(setup, 80), np.random.default_rng(seed)
    chances = jax.jit(lambda adapter: _next_word(params, adapter, lora))
    for _ in range(80):
        p = np.asarray(chances(state.trainable), np.float64)
        drawn = rng.choice(V, size=16, p=p / p.sum())
        rewards = (drawn == 2).astype(np.float64)
        if shuffled:
            rewards = rng.permutation(rewards)
        rows = [
            row([0, word], 1, r - rewards.mean(), sampled=np.log(p[word]))
            for word, r in zip(drawn, rewards, strict=True)
        ]
        batch = pack(rows, Layout(1, 16, 16), setup.objective.streams)
        state, metrics = step(state, params, batch, jax.random.key(0))
        assert metrics.objective["log_p_gap_max"] < 1e-5  # what was drawn is what is trained
    return float(chances(state.trainable)[2])


def _next_word(params, adapter, lora):
    """Probability of each word behind the prompt 0."""
    tokens, ones = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32)
    hidden = forward(params, CFG, tokens, tokens, ones, adapter=adapter, lora=lora)
    return jax.nn.softmax(logits(params, CFG, hidden)[0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_a_bandit_learns_the_word_that_is_rewarded(seed):
    assert play(seed, shuffled=False) > 0.95


def test_shuffled_rewards_teach_nothing():
    """Chance may carry a single game anywhere, the mean of five stays where it was."""
    assert np.mean([play(seed, shuffled=True) for seed in range(5)]) < 0.6


def test_equal_rewards_leave_the_gradient_of_the_divergence_alone():
    """Advantages of zero: only `kl` moves the weights."""
    params, adapter, _ = model()
    setup = TrainingSetup(CFG, CONFIG)

    def gradient(with_pg: bool):
        rows = []
        for answer in ([0, 1], [2, 0], [1, 1]):
            item = row([0, *answer], 1, [1.0, 1.0], count=2.0, name="kl")
            none = {"pg": Stream(np.zeros(2, np.float32), 2.0)} if with_pg else {}
            rows.append(replace(item, streams={**none, **item.streams}))
        batch = pack(rows, Layout(1, 3, 16), setup.objective.streams)
        return jax.jit(make_gradient(setup))(adapter, params, batch, jax.random.key(0))[1]

    have, want = kit.flat(gradient(with_pg=True)), kit.flat(gradient(with_pg=False))
    for name in want:  # another program, so other last bits
        np.testing.assert_allclose(have[name], want[name], rtol=1e-5, atol=1e-8)
