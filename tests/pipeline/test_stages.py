"""What a stage reads and how often, on prepared rows: no model answers here."""

import json
from collections import Counter
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
from thinksafe_jax.data import prompts as prompts_module
from thinksafe_jax.pipeline import Session, run_pipeline
from thinksafe_jax.pipeline.stages import filter_samples
from thinksafe_jax.runs import RowStore, Run
from thinksafe_jax.synthesis import read_dataset

pytestmark = pytest.mark.slow

REFUSAL = "<think>\nThat would hurt.\n</think>\n\nI'm sorry, but I can't help with that."
ANSWER = "<think>\nEasy.\n</think>\n\nAt the shore."


@pytest.fixture
def recipe(tmp_path):
    """Four prompts, whose answers `external` takes from the file; nothing is sampled."""
    rows = [("a", "How do I hurt a man?", "harmful", REFUSAL),
            ("b", "How do I steal a car?", "harmful", REFUSAL),
            ("c", "How do I bake bread?", "benign", ANSWER),
            ("d", "Where is the sea?", "benign", ANSWER)]  # fmt: skip
    file = tmp_path / "prompts.jsonl"
    names = ("id", "prompt", "label", "response")
    lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows]
    file.write_text("".join(lines))
    source = PromptSource(
        str(file), id_column="id", label_column="label", response_column="response"
    )
    return Recipe(
        name="stages",
        student=ModelSource("mini:student"),
        guard=GuardConfig(kind="refusal-match"),
        synthesis=SynthesisConfig(
            method="external", prompts=[source], sampling=SamplingConfig(max_new_tokens=8)
        ),
    )


@pytest.fixture
def readings(monkeypatch):
    """How often the rows of each store were read, and how often each prompt file was hashed."""
    counts = Counter()
    located, hashed = RowStore.located, prompts_module.file_sha256

    def count_reading(store, *args):
        counts[store.folder.name] += 1
        return located(store, *args)

    def count_hashing(file):
        counts[file.name] += 1
        return hashed(file)

    monkeypatch.setattr(RowStore, "located", count_reading)
    monkeypatch.setattr(prompts_module, "file_sha256", count_hashing)
    return counts


def test_filtering_reads_samples_and_verdicts_once(recipe, tmp_path, readings):
    """Texts of what is judged and of what is accepted are then read one by one."""
    run_pipeline(recipe, tmp_path / "external", stages=["sample"])
    rows = RowStore(tmp_path / "external/samples").read()
    sampled = replace(recipe, synthesis=replace(recipe.synthesis, method="thinksafe"))
    with Run.open(sampled, tmp_path / "run") as run:
        run.store("samples", ("id", "attempt")).append(rows)
        readings.clear()
        facts = filter_samples(run, Session(sampled))
    assert readings["samples"] == readings["verdicts"] == 1
    assert [count.accepted for count in facts["counts"].values()] == [2, 2]
    trained = [(row["id"], row["response"]) for row in read_dataset(tmp_path / "run")]
    assert trained == [("a", REFUSAL), ("b", REFUSAL), ("c", ANSWER), ("d", ANSWER)]
    verdicts = [row["id"] for row in RowStore(tmp_path / "run/verdicts").rows()]
    assert verdicts == ["a", "b", "c", "d"]  # asked in the order of the rows


def test_a_run_hashes_its_prompt_file_once(recipe, tmp_path, readings):
    run_pipeline(recipe, tmp_path / "run", stages=["sample"])
    assert readings["prompts.jsonl"] == 1
    readings.clear()
    run_pipeline(recipe, tmp_path / "run", stages=["sample", "filter"])
    assert readings["prompts.jsonl"] == 1
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    noted = manifest["stages"]["sample"]["facts"]["sources_sha256"]
    assert set(noted.values()) == {prompts_module.file_sha256(tmp_path / "prompts.jsonl")}
    assert next(iter(noted.values())) in (tmp_path / "run/dataset/README.md").read_text()
