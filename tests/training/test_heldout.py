"""Rows that training never sees, and the loss on them as training goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import kit
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import forward, logits
from thinksafe_jax.training import heldout_loss, hold_out

pytestmark = pytest.mark.slow


def test_the_rows_held_out_depend_on_the_seed_alone():
    rows = kit.rows(12)
    kept, held = hold_out(rows, 4, seed=3)
    assert (len(kept), len(held)) == (8, 4)
    assert {r.id for r in kept} | {r.id for r in held} == {r.id for r in rows}
    again = hold_out(rows, 4, seed=3)[1]
    assert [r.id for r in again] == [r.id for r in held]
    assert hold_out(rows, 0, seed=3) == (rows, [])
    with pytest.raises(InputError, match="hold out fewer"):
        hold_out(rows, 12, seed=3)


def test_it_is_the_mean_over_the_targets_without_dropout():
    """Against the logits of each row alone."""
    held, config = kit.rows(5), kit.settings(lora_dropout=0.5)
    params = kit.params()
    total = targets = 0.0

    @jax.jit
    def scores_of(tokens):
        places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        hidden = forward(params, kit.CONFIG, tokens, places, jnp.ones_like(tokens))
        return logits(params, kit.CONFIG, hidden)

    for row in held:
        scores = np.asarray(scores_of(np.asarray(row.token_ids, np.int32)[None]))[0, :-1]
        losses = np.log(np.exp(scores).sum(-1)) - scores[range(len(scores)), row.token_ids[1:]]
        total += losses[row.loss_mask[1:]].sum()
        targets += row.loss_mask[1:].sum()
    measured = heldout_loss(params, kit.setup(config), held)
    still = kit.setup(kit.settings(learning_rate=1e-12))
    adapter = kit.train(params, still, held, seed=0).trainable
    assert measured(0, adapter)["heldout_loss"] == pytest.approx(total / targets, rel=1e-4)


def test_it_falls_while_training_and_stands_in_the_log():
    config, params, rows = kit.settings(), kit.params(), kit.rows(12)
    kept, held = hold_out(rows, 4, seed=3)
    log = []
    kit.train(
        params,
        kit.setup(config),
        kept,
        log=lambda **values: log.append(values),
        evaluate=heldout_loss(params, kit.setup(config), held),
        evaluate_every=2,
    )
    losses = [line["heldout_loss"] for line in log if "heldout_loss" in line]
    assert len(losses) >= 2 and losses[-1] < losses[0]
