"""Which prompts a step asks, and what ties rollouts to their policy."""

import numpy as np
import pytest

from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.on_policy.policy import adapter_hash
from thinksafe_jax.on_policy.schedule import Schedule

PROMPTS = [Prompt(f"p{n}", f"text {n}", "harmful") for n in range(10)]


def schedule(per_step=4, epochs=3, steps=None, seed=7):
    return Schedule(PROMPTS, per_step, seed=seed, epochs=epochs, steps=steps)


def test_every_prompt_is_asked_once_in_an_epoch():
    plan = schedule()
    assert (plan.num_steps, plan.steps_per_epoch) == (9, 3)
    for epoch in range(3):
        asked = [p.id for step in range(3) for p in plan[3 * epoch + step]]
        assert sorted(asked) == sorted(p.id for p in PROMPTS)
    assert plan[0] != plan[3]  # another order in the next epoch


def test_a_step_is_a_function_of_the_seed_and_its_number():
    plan, late = schedule(), schedule()
    wanted = [plan[n] for n in range(9)]
    assert [late[n] for n in (8, 2, 5)] == [wanted[n] for n in (8, 2, 5)]
    assert schedule(seed=8)[0] != wanted[0]


def test_steps_may_be_given():
    plan = schedule(steps=20)
    assert plan.num_steps == 20 and len(plan[19]) == 4


def test_no_prompt_is_no_run():
    with pytest.raises(InputError, match="no prompt is left to ask"):
        Schedule([], 4, seed=0, epochs=1, steps=None)


def test_a_hash_covers_every_value_and_name_of_an_adapter():
    adapter = {"layers": {"q_proj": {"a": np.zeros((2, 3), np.float32)}}}
    changed = {"layers": {"q_proj": {"a": np.full((2, 3), 1e-30, np.float32)}}}
    renamed = {"layers": {"v_proj": {"a": np.zeros((2, 3), np.float32)}}}
    reshaped = {"layers": {"q_proj": {"a": np.zeros((3, 2), np.float32)}}}
    hashes = {adapter_hash(tree) for tree in (adapter, changed, renamed, reshaped)}
    assert len(hashes) == 4
    assert adapter_hash({"layers": {"q_proj": {"a": np.zeros((2, 3), np.float32)}}}) in hashes
