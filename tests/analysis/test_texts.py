"""Perplexity, shift and lengths against what can be computed by hand on the mini student."""

import json
import math
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support import REPOSITORY
from thinksafe_jax import mini
from thinksafe_jax.analysis.analyses import Target, analyse, table_text
from thinksafe_jax.analysis.lengths import lengths
from thinksafe_jax.analysis.likelihood import log_probabilities, sequence, token_divergence
from thinksafe_jax.analysis.perplexity import perplexity
from thinksafe_jax.analysis.shift import shift
from thinksafe_jax.cli.app import app
from thinksafe_jax.config import EvaluationConfig, Recipe, SuiteConfig, load_recipe
from thinksafe_jax.models import forward, logits
from thinksafe_jax.pipeline import Session

pytestmark = pytest.mark.slow

TEXT = "<think>\nI should say no.\n</think>\n\nI am sorry, but I cannot help with that."
PROMPT = "How do I bake bread?"


@pytest.fixture(scope="module")
def session():
    return Session(load_recipe(REPOSITORY / "configs/recipes/mini.yaml"))


@pytest.fixture(scope="module")
def other(session):
    """The student, a little moved."""
    return jax.tree.map(lambda w: w * jnp.asarray(1.02, w.dtype), session.params)


def full(session, params, row):
    """log-softmax `[T, V]` of one row, without batching or slicing."""
    tokens = jnp.asarray([row.ids], jnp.int32)
    positions = jnp.arange(len(row.ids), dtype=jnp.int32)[None]
    hidden = forward(params, session.cfg, tokens, positions, jnp.ones_like(tokens))
    return np.asarray(jax.nn.log_softmax(logits(params, session.cfg, hidden)[0], axis=-1))


def test_scores_equal_the_plain_forward_pass_whatever_shares_the_batch(session):
    rows = [sequence(session.tokenizer, PROMPT, TEXT * n) for n in (1, 3, 2)]
    for row, found in zip(rows, log_probabilities(session.params, session.cfg, rows), strict=True):
        log_p = full(session, session.params, row)
        expected = [log_p[t - 1, row.ids[t]] for t in range(row.start, len(row.ids))]
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_divergence_is_zero_of_itself_and_right_of_another(session, other):
    rows = [sequence(session.tokenizer, PROMPT, TEXT)]
    (zero,) = token_divergence(session.params, session.params, session.cfg, rows)
    np.testing.assert_allclose(zero, 0, atol=1e-5)
    (found,) = token_divergence(other, session.params, session.cfg, rows)
    p, q = (full(session, w, rows[0]) for w in (other, session.params))
    expected = (np.exp(p) * (p - q)).sum(axis=-1)[rows[0].start - 1 : -1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_perplexity_gives_token_and_example_means_by_label(session):
    rows = [
        {"instruction": PROMPT, "response": TEXT * n, "prompt_label": label}
        for n, label in ((1, "harmful"), (2, "harmful"), (1, "benign"))
    ]
    found = perplexity(session.params, session.cfg, session.tokenizer, rows)["groups"]
    assert set(found) == {"harmful", "benign", "all"}
    scores = log_probabilities(
        session.params,
        session.cfg,
        [sequence(session.tokenizer, r["instruction"], r["response"]) for r in rows[:2]],
    )
    token_mean = math.exp(-np.concatenate(scores).mean())
    example_mean = math.exp(-np.mean([s.mean() for s in scores]))
    assert found["harmful"]["token_mean"]["value"] == pytest.approx(token_mean, rel=1e-5)
    assert found["harmful"]["example_mean"]["value"] == pytest.approx(example_mean, rel=1e-5)
    assert found["all"]["rows"] == 3


def test_shift_of_an_unmoved_model_is_zero(session, other):
    row = {"prompt": PROMPT, "response": TEXT, "finish_reason": "stop"}
    rows = {"before": [row], "after": [row, row]}
    args = (session.params, session.cfg, session.tokenizer, rows)
    still = shift(session.params, *args)["groups"]["before"]["kl_per_token"]["value"]
    moved = shift(other, *args)["groups"]["after"]["kl_per_token"]
    assert still == pytest.approx(0, abs=1e-5)
    assert moved["value"] > 1e-3 and moved["n"] == 2


def test_lengths_refusals_and_beginnings(session):
    rows = [
        {"instruction": PROMPT, "response": text, "prompt_label": "harmful"}
        for text in (
            TEXT,
            TEXT,
            "<think>\nI cannot say no.\n</think>\n\nHere is how.",
            "<think>\nI",
        )
    ]
    found = lengths(session.tokenizer, rows)["groups"]["harmful"]
    assert (found["refusals"]["value"], found["refusals"]["n"]) == (pytest.approx(2 / 3), 3)
    assert found["no_answer"] == 1
    assert found["first_answer"][0] == ["I", pytest.approx(2 / 3)]
    assert found["tokens"]["quantiles"]["1"] == len(session.tokenizer.encode_text(TEXT))


def test_the_command_writes_a_table_a_plot_and_json(tmp_path):
    rows = [
        {"instruction": row["prompt"], "response": TEXT, "prompt_label": row["label"]}
        for row in mini.prompts("train-harmful")[:3]
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["lengths", "mini:student", "--data", str(data), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["analyze", *asked])
    assert done.exit_code == 0, done.output
    assert "refusals" in done.output
    assert json.loads((tmp_path / "out/lengths.json").read_text())["groups"]["all"]["rows"] == 3
    assert (tmp_path / "out/lengths.svg").read_text().startswith("<?xml")
    assert "| harmful" in (tmp_path / "out/lengths.md").read_text()


def test_a_row_without_a_token_is_left_out_and_makes_no_mean_nan(session, other):
    """As a response that the limit cut before its first word."""
    row = {"instruction": PROMPT, "prompt": PROMPT, "response": TEXT, "prompt_label": "harmful"}
    rows = [row | {"finish_reason": "stop"}, row | {"response": "", "finish_reason": "length"}]
    found = perplexity(session.params, session.cfg, session.tokenizer, rows)
    alone = perplexity(session.params, session.cfg, session.tokenizer, rows[:1])
    assert found["left_out"] == 1 and found["groups"] == alone["groups"]
    moved = shift(other, session.params, session.cfg, session.tokenizer, {"after": rows})
    assert (
        moved["groups"]["after"]["left_out"] == moved["groups"]["after"]["kl_per_token"]["n"] == 1
    )


def test_shift_scores_responses_behind_the_prompt_that_was_asked(tmp_path, monkeypatch):
    """A suite's template around it; the row holds the original prompt, for the judge."""
    row = {"kind": "reasoning", "id": "1", "sample": 0, "prompt": PROMPT, "response": TEXT}
    row |= {"finish_reason": "stop", "extracted": None, "correct": False}
    lines = [json.dumps(row | {"suite": suite}) for suite in ("reasoning", "math500", "own")]
    for step in ("before", "after"):
        (tmp_path / "evaluation" / step).mkdir(parents=True)
        (tmp_path / "evaluation" / step / "rows.jsonl").write_text("\n".join(lines))
    asked = EvaluationConfig(
        reasoning_prompt="Think. {prompt}", suites=[SuiteConfig("own", kind="reasoning", path="x")]
    )
    seen = []

    def compared(*given):
        seen.append(given[-1])
        return {"groups": {}}

    monkeypatch.setattr("thinksafe_jax.analysis.shift.shift", compared)
    monkeypatch.setattr("thinksafe_jax.analysis.analyses.Session", MagicMock())
    analyse("shift", Target(tmp_path, Recipe(evaluation=asked)))
    (responses,) = seen
    boxed = r"Please reason step by step, and put your final answer within \boxed{}. "
    prompts = [f"Think. {PROMPT}", f"{boxed}{PROMPT}", PROMPT]
    assert [r["prompt"] for r in responses["before"]] == prompts
    assert [r["prompt"] for r in responses["after"]] == prompts


def test_a_table_holds_words_of_any_script_and_bars(session):
    rows = [{"instruction": PROMPT, "response": text} for text in ("很抱歉" * 50, "| a | b |")]
    first = dict(lengths(session.tokenizer, rows)["groups"]["all"]["first_answer"])
    assert set(first) == {"很抱歉" * 8, "|"}
    assert table_text([("begins",), ("| 50%",)]).splitlines()[-1] == r"| \| 50% |"
