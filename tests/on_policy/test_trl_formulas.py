"""A step of grpo beside TRL's loss, written out from its definition: value, gradient, advantages.

TRL has the ratio to the policy that sampled, which is 1 but has a gradient, clipped; padded rows
and masks; k3, plain or times the ratio. Here are signed weights on -log p, packed into several
passes. `scripts/bench/trl_parity.py` compares with TRL's own code.
"""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.on_policy import kit
from tests.support import tiny_config
from tests.training.kit import flat
from thinksafe_jax.config import RewardTerm, TrainingConfig
from thinksafe_jax.models import forward, init_adapter, init_params, logits
from thinksafe_jax.on_policy import OnPolicySteps, StepParts, make_method
from thinksafe_jax.training import TrainingSetup
from thinksafe_jax.training.step import make_gradient

pytestmark = pytest.mark.slow

V, LONGEST, HEAT, BETA = 17, 7, 0.7, 0.04
CFG = tiny_config(
    vocab_size=V, hidden_size=16, intermediate_size=16, num_heads=2, num_kv_heads=1, head_dim=8
)
PROMPTS = {"p0": [3, 9], "p1": [5, 2, 11, 4]}
P_UNSAFE = [0.1, 0.8, 0.3, 0.6, 0.9, 0.2, 0.5, 0.4]
WELL_FORMED = [1, 0, 1, 1, 0, 0, 1, 0]
LENGTHS = [2, 7, 3, 5, 1, 6, 7, 4]


def rollouts():
    """Two groups of four, of uneven lengths, each with the two rewards of the paper."""
    rng = np.random.default_rng(0)
    made = []
    for n, length in enumerate(LENGTHS):
        prompt = f"p{n // 4}"
        response = kit.CLOSED if WELL_FORMED[n] else "no tags"
        item = kit.rollout(
            prompt, n % 4, tokens=length, response=response, of_guard=kit.verdict(P_UNSAFE[n])
        )
        ids = rng.integers(0, V, length).tolist()
        made.append(replace(item, prompt_ids=PROMPTS[prompt], token_ids=ids))
    return made


def recipe(loss, kl):
    made = kit.recipe(
        rewards=[RewardTerm("guard-safe"), RewardTerm("format")],
        loss=loss,
        samples=4,
        std_floor=0.0,
    )
    training = TrainingConfig(
        kl=kl, kl_weight=BETA, lora_r=2, lora_alpha=4.0, lora_dropout=0.0, batch_size=8,
        micro_batch_size=1, max_length=16, remat="none",
    )  # fmt: skip
    sampling = replace(made.on_policy.sampling, temperature=HEAT, max_new_tokens=LONGEST)
    return replace(made, training=training, on_policy=replace(made.on_policy, sampling=sampling))


@cache
def model():
    """(params, an adapter that has moved, its shape)."""
    lora = TrainingSetup(CFG, recipe("grpo", "k3").training).lora
    adapter = init_adapter(CFG, lora, jax.random.key(1))
    moved = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(2), x.shape), adapter)
    return init_params(CFG, jax.random.key(0), scale=0.5), moved, lora


@cache
def gradient_of(kl):
    """The training step's gradient, compiled once for every divergence."""
    config = replace(recipe("grpo", kl).training, objective="rollout-streams")
    return jax.jit(make_gradient(TrainingSetup(CFG, config)))


def our_step(loss, kl):
    """(loss with TRL's value of the policy gradient, gradient) of the first step of the loop."""
    made, drawn = recipe(loss, kl), rollouts()
    params, adapter, _ = model()
    stats = SimpleNamespace(seconds=0.0, occupancy=1.0)
    engine = SimpleNamespace(update_adapter=lambda adapter: None, stats=stats)
    sampler = SimpleNamespace(
        engine=lambda: engine,
        draw=lambda draw: [r for a in draw.asked for r in drawn if r.prompt == a.prompt],
        judge=lambda folder, answers: answers,
    )
    tokenizer = SimpleNamespace(prompt_ids=lambda text: PROMPTS[text.removeprefix("text of ")])
    method = make_method(made, tokenizer)
    parts = StepParts(sampler, method, None, 64, None, lambda *_, **__: None)
    prompts = [drawn[0].prompt, drawn[4].prompt]
    batch = next(OnPolicySteps(made, prompts, tokenizer, parts).steps(0, lambda: adapter)).batch
    assert 1 < batch.passes < 8  # packed, and accumulated
    totals, gradient = gradient_of(kl)(adapter, params, batch, jax.random.key(0))
    value = totals.objective["kl"] - batch.rows.streams["pg"].sum()  # -log p is no -ratio
    return value / batch.denominator, flat(jax.tree.map(lambda g: g / batch.denominator, gradient))


def padded():
    """(rows [B, T] without packing, mask [B, T - 1] of the targets that are answers)."""
    rows = [[*r.prompt_ids, *r.token_ids] for r in rollouts()]
    length = max(map(len, rows))
    ids = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
    target = np.arange(1, length)
    first = np.array([len(r.prompt_ids) for r in rollouts()])[:, None]
    end = np.array([len(row) for row in rows])[:, None]
    return ids, ((target >= first) & (target < end)).astype(np.float32)


def log_p_of(ids, adapter):
    """Of each target, at the temperature of the rollouts; adapter None is the reference."""
    params, _, lora = model()
    positions = jax.lax.broadcasted_iota(jnp.int32, ids.shape, 1)
    shape = None if adapter is None else lora
    hidden = forward(params, CFG, ids, positions, jnp.ones_like(ids), adapter=adapter, lora=shape)
    log_p = jax.nn.log_softmax(logits(params, CFG, hidden) / HEAT, axis=-1)
    return jnp.take_along_axis(log_p[:, :-1], ids[:, 1:, None], -1)[..., 0]


def advantages():
    """By group: (r - mean) / (unbiased deviation + 1e-4), r the sum of the rewards."""
    rewards = (1 - np.array(P_UNSAFE) + WELL_FORMED).reshape(2, 4)
    spread = rewards.std(axis=1, ddof=1, keepdims=True)
    return ((rewards - rewards.mean(axis=1, keepdims=True)) / (spread + 1e-4)).ravel()


def trl_loss(adapter, loss, corrected):
    ids, mask = padded()
    log_p, log_ref = log_p_of(ids, adapter), log_p_of(ids, None)
    advantage = jnp.asarray(advantages(), jnp.float32)[:, None]
    ratio = jnp.exp(log_p - jax.lax.stop_gradient(log_p))
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    difference = log_ref - log_p
    k3 = jnp.exp(difference) - difference - 1.0
    tokens = mask * (BETA * (k3 * ratio if corrected else k3) - gain)
    if loss == "grpo":
        return jnp.mean(tokens.sum(axis=1) / mask.sum(axis=1))
    return tokens.sum() / (mask.sum() if loss == "dapo" else len(ids) * LONGEST)


def distance(have, want):
    """Of two gradients: the length of the difference, as a share of the wanted one."""
    pairs = [(have[name] - want[name], want[name]) for name in want]
    apart, length = (sum(float((pair[n] ** 2).sum()) for pair in pairs) for n in (0, 1))
    return np.sqrt(apart / length)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr-grpo"])
def test_value_and_gradient_are_those_of_trl(loss, corrected):
    value, gradient = our_step(loss, "k3-corrected" if corrected else "k3")
    of_trl = jax.value_and_grad(lambda adapter: trl_loss(adapter, loss, corrected))
    want, wanted = of_trl(model()[1])
    np.testing.assert_allclose(value, want, rtol=0, atol=1e-6)
    assert distance(gradient, flat(wanted)) < 1e-5


def test_the_comparison_tells_the_two_estimates_apart():
    """Their values are equal, their gradients are not."""
    plain, corrected = our_step("grpo", "k3"), our_step("grpo", "k3-corrected")
    np.testing.assert_allclose(plain[0], corrected[0], atol=1e-6)
    assert distance(plain[1], corrected[1]) > 1e-3


def test_advantages_are_those_of_trl():
    taught = make_method(recipe("dapo", "k3"), None).teach(rollouts(), [])
    have = [streams["pg"].weights[0] for streams in taught.streams]
    np.testing.assert_allclose(have, advantages(), rtol=1e-6)
