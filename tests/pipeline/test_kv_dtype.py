"""Rows that were drawn with rounded keys and values stay apart from rows of the model's own."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from thinksafe_jax.analysis.probe import _question
from thinksafe_jax.config import EngineConfig, OnPolicyConfig, Recipe, load_recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.pipeline.flow import STAGES
from thinksafe_jax.report.run_files import RunFiles
from thinksafe_jax.report.summary import build_summary
from thinksafe_jax.runs import Run
from thinksafe_jax.storage import content_hash

MODEL = Recipe()
ROUNDED = replace(MODEL, engine=EngineConfig(kv_dtype="int8"))


def inputs_hash(stage, recipe, path):
    session = SimpleNamespace(recipe=recipe, prompt_hashes={}, question_hashes={})
    return content_hash(*STAGES[stage].inputs(session, path))


@pytest.mark.parametrize(("stage", "method"), [("sample", ""), ("evaluate", ""), ("train", "grpo")])
def test_a_stage_that_draws_is_done_again(tmp_path, stage, method):
    model, rounded = (replace(r, on_policy=OnPolicyConfig(method)) for r in (MODEL, ROUNDED))
    assert inputs_hash(stage, model, tmp_path) != inputs_hash(stage, rounded, tmp_path)
    slots = replace(model, engine=EngineConfig(slots=3))
    assert inputs_hash(stage, model, tmp_path) == inputs_hash(stage, slots, tmp_path)


def test_a_probe_asks_again():
    assert _question(MODEL, {}, 1) != _question(ROUNDED, {}, 1)


def test_a_run_that_was_begun_otherwise_is_not_continued(tmp_path):
    with Run.open(load_recipe("mini"), tmp_path / "run"):
        pass
    refused = pytest.raises(ConfigError, match=r"engine\.kv_dtype: 'model' -> 'int8'")
    with refused, Run.open(load_recipe("mini", ["engine.kv_dtype=int8"]), tmp_path / "run"):
        pass


def test_the_report_says_so():
    def notes(recipe):
        return {note["kind"] for note in build_summary(files(recipe))["notes"]}

    assert "rounded-cache" in notes(ROUNDED) and "rounded-cache" not in notes(MODEL)
    assert build_summary(files(ROUNDED))["paper_differences"] == [
        {"key": "engine.kv_dtype", "paper": "model", "run": "int8"}
    ]


def files(recipe):
    return RunFiles(path=Path("run"), recipe=recipe)


def test_what_identities_hash_of_the_engine_is_what_earlier_runs_hashed():
    """Byte for byte: the hashes of stages and of a probe's rows are made of it."""
    assert MODEL.engine.drawn_with == ()
    assert ROUNDED.engine.drawn_with == ("engine.kv_dtype int8",)
