"""Which version of the draw made the rows of a run directory, and when that is worth a word."""

import json
from dataclasses import replace

import pytest

from thinksafe_jax.config import (
    GuardConfig,
    ModelSource,
    PromptSource,
    Recipe,
    SamplingConfig,
    SynthesisConfig,
)
from thinksafe_jax.config.recipe import Rung
from thinksafe_jax.pipeline.draw_version import check_draw_version
from thinksafe_jax.runs import Run
from thinksafe_jax.sampling import DRAW_VERSION

R1 = SamplingConfig(top_k=0)  # what its filters keep is found over the whole vocabulary
QWEN3 = SamplingConfig(top_k=20)


def start(folder, sampling, ladder=()):
    """What one start says of the versions, and keeps."""
    prompts = [PromptSource("mini:train-harmful")]
    synthesis = SynthesisConfig(
        sampling=sampling, prompts=prompts, ladder=list(ladder), attempts=max(1, len(ladder))
    )
    student, guard = ModelSource("mini:student"), GuardConfig(model="mini:guard")
    recipe = Recipe(name="r", student=student, guard=guard, synthesis=synthesis)
    with Run.open(recipe, folder) as run:
        versions = check_draw_version(run)
    assert json.loads((folder / "manifest.json").read_text())["draw_versions"] == versions
    return versions


def begun(folder, sampling, versions=None, ladder=()):
    """A directory with a row, as a version left it that kept `versions`, or nothing."""
    start(folder, sampling, ladder)
    (folder / "samples").mkdir()
    (folder / "samples/part-00000.jsonl").write_text("{}\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["draw_versions"]
    if versions is not None:
        manifest["draw_versions"] = versions
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("sampling", [R1, QWEN3])
def test_a_new_run_has_one_version(tmp_path, caplog, sampling):
    assert start(tmp_path / "run", sampling) == [DRAW_VERSION]
    assert start(tmp_path / "run", sampling) == [DRAW_VERSION]
    assert not caplog.records


@pytest.mark.parametrize(
    "sampling", [QWEN3, replace(R1, temperature=0.0), replace(QWEN3, top_k=64)]
)
def test_a_run_from_before_goes_on_where_versions_draw_alike(tmp_path, caplog, sampling):
    begun(tmp_path, sampling)
    assert start(tmp_path, sampling) == [DRAW_VERSION]
    assert not caplog.records


@pytest.mark.parametrize("sampling", [R1, replace(QWEN3, top_k=65), SamplingConfig(1.0, 1.0, 0)])
def test_rows_of_two_versions_are_said_and_kept(tmp_path, caplog, sampling):
    begun(tmp_path, sampling)
    assert start(tmp_path, sampling) == [1, DRAW_VERSION]
    assert "may be drawn by version 1 of the draw, the rest is by 2" in caplog.text


def test_a_rung_of_the_ladder_counts(tmp_path):
    greedy, ladder = replace(R1, temperature=0.0), [Rung(), Rung(temperature=1.0)]
    begun(tmp_path, greedy, ladder=ladder)
    assert start(tmp_path, greedy, ladder) == [1, DRAW_VERSION]


def test_what_was_kept_is_believed(tmp_path, caplog):
    begun(tmp_path, R1, [DRAW_VERSION])
    assert start(tmp_path, R1) == [DRAW_VERSION]
    assert not caplog.records
