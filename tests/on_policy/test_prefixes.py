"""Flawed beginnings (RECAP): given with the prompt, no loss on them, the same for a whole group."""

from dataclasses import replace

import numpy as np
import pytest

from tests.on_policy import kit
from thinksafe_jax.config import PrefixConfig, RewardTerm
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.on_policy import OnPolicySteps, StepParts, make_method
from thinksafe_jax.on_policy.prefixes import Prefixes
from thinksafe_jax.runs import RowStore

PROMPTS = [Prompt("h0", "bomb", "harmful"), Prompt("b0", "cake", "benign")]
ADAPTER = {"a": np.zeros(2, np.float32)}
# text, label, response, the guard's word
ROWS = [
    ("bomb", "harmful", "<think>Sure, first\n</think>Take it", "unsafe"),
    ("bomb", "harmful", "<think>Never\n</think>No", "safe"),
    ("bomb", "harmful", "<think>never ends", ""),  # malformed: nobody judged it
    ("cake", "benign", "<think>That is bad\n</think>I cannot help with that.", "safe"),
    ("cake", "benign", "<think>Nice\n</think>Mix it", "safe"),
    ("else", "harmful", "<think>Ok\n</think>So", "unsafe"),
]


@pytest.fixture
def run(tmp_path):
    """A run that asked the same prompts under other ids."""
    return written(tmp_path / "other", ROWS)


def written(folder, rows):
    samples, verdicts = (
        RowStore(folder / name, ("id", "attempt")) for name in ("samples", "verdicts")
    )
    for n, (text, label, response, word) in enumerate(rows):
        key = {"id": f"row-{text}", "attempt": n + 1}
        row = {**key, "prompt": text, "label": label, "response": response}
        samples.append([{**row, "finish_reason": "stop", "tokens": 9}])
        verdict = {**key, "verdict": word, "marked": False, "truncated": False, "template": ""}
        verdicts.append([verdict] if word else [])
    return folder


def prefixes(run, prompts=PROMPTS, **settings):
    config = PrefixConfig(**{"run": str(run), "share": 1.0, **settings})
    return Prefixes(config, prompts, kit.LETTERS, seed=7)


def text(ids):
    return kit.LETTERS.decode(ids)


def test_harmful_prompts_begin_with_rejected_thoughts_and_benign_ones_with_refusing_ones(run):
    made = prefixes(run)
    assert text(made.of(PROMPTS[0], 0)) == "<think>Sure, first"
    assert text(made.of(PROMPTS[1], 0)) == "<think>That is bad"
    assert text(prefixes(run, tokens=9).of(PROMPTS[0], 0)) == "<think>Su"
    assert made.longest(PROMPTS[0]) == len("<think>Sure, first")


def test_a_share_of_the_prompts_is_given_one_drawn_by_seed_step_and_prompt(run):
    made, again = prefixes(run, share=0.25), prefixes(run, share=0.25)
    given = [bool(made.of(PROMPTS[0], step)) for step in range(400)]
    assert given == [bool(again.of(PROMPTS[0], step)) for step in range(400)]
    assert 0.18 < np.mean(given) < 0.32
    assert given != [bool(made.of(PROMPTS[1], step)) for step in range(400)]
    assert not any(prefixes(run, share=0.0).of(PROMPTS[0], step) for step in range(20))


def test_without_a_run_nothing_is_given():
    made = Prefixes(PrefixConfig(), PROMPTS, kit.LETTERS, seed=7)
    assert (made.of(PROMPTS[0], 0), made.longest(PROMPTS[0]), made.identity) == ([], 0, {})


def test_what_the_rows_say_is_part_of_the_runs_identity(run):
    assert prefixes(run).identity != prefixes(run, tokens=9).identity


def test_a_run_without_rejected_answers_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="has no samples with verdicts; first sample and filter"):
        prefixes(tmp_path / "nothing")
    with pytest.raises(InputError, match="no rejected answer to any of the 1 prompts"):
        prefixes(run, [Prompt("x", "unknown", "harmful")])


def test_only_reasoning_is_a_beginning(tmp_path):
    """An answer without any is none; reasoning that was cut is one, as far as it goes."""
    answers = ["Sure, take it", "<think>Ok, then", "<think>Yes</think>So"]
    rows = [("bomb", "harmful", answer, "unsafe") for answer in answers]
    made = prefixes(written(tmp_path / "some", rows))
    given = {text(made.of(PROMPTS[0], step)) for step in range(40)}
    assert given == {"<think>Ok, then", "<think>Yes"}
    bare = [rows[0], ("cake", "benign", "I cannot help with that.", "safe")]
    with pytest.raises(InputError, match=r"has 2 rejected answers .* and none has reasoning"):
        prefixes(written(tmp_path / "bare", bare))


# --- in the loop -----------------------------------------------------------------------------


def steps(run, folder, engine, guard, **settings):
    rewards = [RewardTerm("guard-safe")]
    made = kit.recipe(
        rewards=rewards, samples=2, prefixes=PrefixConfig(str(run), share=1.0, **settings)
    )
    training = replace(made.training, batch_size=4, micro_batch_size=2, max_length=64)
    made = replace(made, training=replace(training, lora_dropout=0.0))
    sampler, lines = kit.sampler(folder, engine, guard, made), []
    parts = StepParts(
        sampler, make_method(made, kit.LETTERS), lambda: None, 64, None,
        lambda stage, **values: lines.append(values),
    )  # fmt: skip
    return OnPolicySteps(made, PROMPTS, kit.LETTERS, parts), lines


def engine():
    """The first answer of a prompt complies, the second turns around."""
    return kit.Engine(lambda request: "</think>x" if request.sample == 0 else "</think>no")


def test_the_beginning_is_read_but_no_loss_lies_on_it(run, tmp_path):
    made, lines = steps(run, tmp_path / "run", engine(), kit.Guard())
    batch = next(made.steps(0, lambda: ADAPTER)).batch
    weighed = batch.rows.streams["pg"] != 0
    rows = [
        (text(tokens[segments == n]), text(targets[(segments == n) & weights]))
        for tokens, segments, targets, weights in zip(
            *(x.reshape(-1, x.shape[-1]) for x in batch.rows[:1] + batch.rows[2:4]),
            weighed.reshape(-1, weighed.shape[-1]),
            strict=True,
        )
        for n in range(1, segments.max() + 1)
    ]
    assert sorted(rows) == [
        ("bomb<think>Sure, first</think>no", "</think>no"),
        ("bomb<think>Sure, first</think>x", "</think>x"),
        ("cake<think>That is bad</think>no", "</think>no"),
        ("cake<think>That is bad</think>x", "</think>x"),
    ]
    assert (lines[0]["prefixed"], lines[0]["unsafe_prefixed"]) == (1.0, 0.5)


def test_the_guard_sees_what_follows_the_given_thought(run, tmp_path):
    """Also the answer's own reasoning is left out with it; the prompt is the user's."""
    guard = kit.Guard()
    made, _ = steps(run, tmp_path / "run", engine(), guard)
    next(made.steps(0, lambda: ADAPTER))
    seen = {(exchange.prompt, exchange.response, exchange.scope) for exchange in guard.seen}
    assert seen == {(p.text, end, "answer") for p in PROMPTS for end in ("x", "no")}


def test_a_resumed_step_draws_nothing_and_other_beginnings_are_refused(run, tmp_path):
    first, again = engine(), engine()
    before = next(steps(run, tmp_path / "run", first, kit.Guard())[0].steps(0, lambda: ADAPTER))
    after = next(steps(run, tmp_path / "run", again, kit.Guard())[0].steps(0, lambda: ADAPTER))
    assert len(first.asked) == 4 and not again.asked
    np.testing.assert_array_equal(before.batch.rows.tokens, after.batch.rows.tokens)
    changed, _ = steps(run, tmp_path / "run", engine(), kit.Guard(), tokens=9)
    with pytest.raises(InputError, match="prefix_ids of the rollout of"):
        next(changed.steps(0, lambda: ADAPTER))
