"""One optimiser step: packing and accumulation change nothing, what is not finite is skipped."""

import dataclasses
from typing import get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import kit
from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import init_adapter
from thinksafe_jax.models.decoder import REMAT
from thinksafe_jax.training import lora_config, make_step
from thinksafe_jax.training.optimizers.adamw import OPTIMIZER, warmup_steps
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.step import init_state, make_gradient

pytestmark = pytest.mark.slow

EXACT = kit.settings(lora_dropout=0.0)


def adapter(config):
    """An adapter whose B is not zero, so that both halves get a gradient."""
    fresh = init_adapter(kit.CONFIG, lora_config(config), jax.random.key(2))
    return jax.tree.map(lambda x: x + 0.1, fresh)


def gradients_of(layout: Layout, groups, full: bool = False, objective: str = "ce"):
    """Sums of loss, tokens and gradient over groups of rows, each group one call."""
    config = dataclasses.replace(EXACT, full_finetune=full, objective=objective)
    setup = kit.setup(config)
    run = jax.jit(make_gradient(setup))
    trainable, frozen = (kit.params(), None) if full else (adapter(config), kit.params())
    batches = [kit.packed(rows, layout, setup) for rows in groups]
    parts = [run(trainable, frozen, batch, jax.random.key(0)) for batch in batches]
    assert float(sum(batch.denominator for batch in batches)) == sum(
        example.loss_mask[1:].sum() for rows in groups for example in rows
    )
    return jax.tree.map(lambda *xs: np.sum(np.stack(xs), axis=0), *parts)


@pytest.mark.parametrize(("full", "objective"), [(False, "ce"), (True, "ce"), (False, "ce+kl")])
def test_packed_and_accumulated_equal_rows_alone(full, objective):
    examples = kit.rows(6, objective=objective)
    assert len({float(e.loss_mask.mean()) for e in examples}) == 6  # uneven masks
    alone = gradients_of(Layout(1, 1, 32), [[e] for e in examples], full, objective)
    packed = gradients_of(Layout(1, 2, 96), [examples], full, objective)
    accumulated = gradients_of(Layout(6, 1, 48), [examples], full, objective)
    for other in (packed, accumulated):
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(b).max())


def test_no_float32_logits_of_a_whole_sequence_exist_in_the_step(monkeypatch):
    """CE and KL, forward, reference and backward, in the compiled program."""
    from thinksafe_jax.training import losses

    monkeypatch.setattr(losses, "_LOGITS_BYTES", 1)  # as if the vocabulary were a real one
    config = dataclasses.replace(EXACT, objective="ce+kl")
    setup = kit.setup(config)
    run = jax.jit(make_gradient(setup))
    batch = kit.packed(kit.rows(4, objective="ce+kl"), Layout(1, 1, 500), setup)
    args = (adapter(config), kit.params(), batch, jax.random.key(0))
    text = run.lower(*args).compile().as_text()
    assert "f32[1,125,61]" in text  # four slices
    assert "500,61]" not in text and "f32[4,1,125,61]" not in text


def test_the_reference_is_the_adapter_switched_off():
    """With B = 0 the student is its reference: no KL, no gradient from benign rows."""
    config = dataclasses.replace(EXACT, objective="ce+kl")
    setup = kit.setup(config)
    fresh = init_adapter(kit.CONFIG, lora_config(config), jax.random.key(2))
    benign = [dataclasses.replace(e, use_kl=True) for e in kit.rows(4)]
    batch = kit.packed(benign, Layout(2, 2, 64), setup)
    totals, grads = jax.jit(make_gradient(setup))(fresh, kit.params(), batch, jax.random.key(0))
    sums = totals.objective
    assert abs(float(sums["kl"])) < 1e-4 and sums["ce"] == 0.0
    targets = sum(int(e.loss_mask[1:].sum()) for e in benign)
    assert int(batch.denominator) == int(sums["kl weight"]) == int(totals.tokens) == targets
    assert all(np.abs(g).max() < 1e-4 for g in jax.tree.leaves(grads))


def test_remat_changes_memory_not_numbers():
    examples = kit.rows(3)
    results = []
    for remat in ("none", "dots", "attention", "layer"):
        config = dataclasses.replace(EXACT, remat=remat)
        setup = kit.setup(config)
        run = jax.jit(make_gradient(setup))
        batch = kit.packed(examples, Layout(1, 3, 32), setup)
        results.append(run(adapter(config), kit.params(), batch, jax.random.key(0)))
    for other in results[1:]:
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(results[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * float(jnp.abs(b).max()))


def test_the_recipe_offers_every_remat_policy_of_the_decoder():
    """The names stand beside the policies in models; config, on the same floor, repeats them."""
    hints = get_type_hints(TrainingConfig, include_extras=True)
    (choices,) = hints["remat"].__metadata__
    assert set(choices.names) == set(REMAT)


def test_the_schedule_is_the_one_of_transformers():
    torch = pytest.importorskip("torch", reason="torch, the oracle, is not installed")
    from transformers import get_cosine_schedule_with_warmup

    config, total = kit.settings(learning_rate=1e-3, warmup_ratio=0.1), 37
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup_steps(config, total), total)
    for step in range(total + 1):
        ours = OPTIMIZER.learning_rate(config, jnp.int32(step), total)
        np.testing.assert_allclose(ours, schedule.get_last_lr()[0], rtol=1e-6, atol=1e-10)
        optimizer.step()
        schedule.step()
    assert warmup_steps(config, total) == 4


@pytest.mark.parametrize("poison", ["nan", "inf"])
def test_a_step_that_is_not_finite_changes_only_the_step_number(poison):
    config = kit.settings()
    setup = kit.setup(config)
    step = make_step(setup, total_steps=10)
    good, key = kit.params(), jax.random.key(0)
    bad = {**good, "final_norm": good["final_norm"].at[0].set(float(poison))}
    batch = kit.packed(kit.rows(4), Layout(2, 2, 64), setup)
    state, metrics = step(init_state(adapter(config), setup), good, batch, key)
    assert metrics.finite
    before = kit.flat(state._replace(step=None))
    state, metrics = step(state, bad, batch, key)
    assert not metrics.finite
    kit.assert_same_bits(before, kit.flat(state._replace(step=None)))
    assert state.step == 2
    state, metrics = step(state, good, batch, key)
    assert metrics.finite and np.isfinite(metrics.loss)


def test_dropout_is_drawn_from_the_step_number():
    config = kit.settings(lora_dropout=0.5, learning_rate=0.0)
    setup = kit.setup(config)
    step = make_step(setup, total_steps=10)
    batch, losses = kit.packed(kit.rows(4), Layout(2, 2, 64), setup), []
    for start in (0, 1, 0):
        state = init_state(adapter(config), setup)._replace(step=jnp.int32(start))
        losses.append(float(step(state, kit.params(), batch, jax.random.key(0))[1].loss))
    assert losses[0] == losses[2] != losses[1]


def test_clipping_is_by_the_global_norm():
    batch, norms = kit.packed(kit.rows(4), Layout(2, 2, 64)), []
    for clip in (1e9, 1e-3):
        config = kit.settings(clip_norm=clip, lora_dropout=0.0)
        setup = kit.setup(config)
        state = init_state(adapter(config), setup)
        state, metrics = make_step(setup, 10)(state, kit.params(), batch, jax.random.key(0))
        moments = [m for m in kit.flat(state.opt_state).items() if ".mu" in m[0]]
        norms.append((float(metrics.grad_norm), sum(float((m**2).sum()) for _, m in moments)))
    (norm, free), (same, clipped) = norms
    assert norm == same > 1e-3  # what is logged is the norm before clipping
    np.testing.assert_allclose(free, (0.1 * norm) ** 2, rtol=1e-4)
    np.testing.assert_allclose(clipped, (0.1 * 1e-3) ** 2, rtol=1e-4)


def test_weight_decay_leaves_norms_and_biases_alone():
    config = kit.settings(full_finetune=True, weight_decay=0.5, clip_norm=1e-30, warmup_ratio=0.0)
    setup = kit.setup(config)
    step = make_step(setup, total_steps=10)
    before = kit.flat(kit.params())
    batch = kit.packed(kit.rows(4), Layout(2, 2, 64), setup)
    state, _ = step(init_state(kit.params(), setup), None, batch, jax.random.key(0))
    for name, after in kit.flat(state.trainable).items():
        factor = 1.0 if "norm" in name else 1.0 - config.learning_rate * 0.5
        np.testing.assert_allclose(after, factor * before[name], rtol=1e-5, atol=1e-7)
