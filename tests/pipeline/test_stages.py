"""What a stage reads and how often, on prepared rows: no model answers here."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from thinksafe_jax.config import (
    EvaluationConfig,
    GuardConfig,
    ModelSource,
    PromptSource,
    Recipe,
    SamplingConfig,
    SuiteConfig,
    SynthesisConfig,
)
from thinksafe_jax.data import prompts as prompts_module
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.pipeline import Session, flow, run_pipeline
from thinksafe_jax.pipeline.stages import filter_samples
from thinksafe_jax.runs import RowStore, Run, begun_recipe
from thinksafe_jax.storage import file_sha256
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


def test_a_file_of_a_suite_that_was_edited_is_asked_again(recipe, tmp_path):
    """Its name alone is in the hash of the stage, which directories begun before have."""
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "a", "prompt": "Hello?"}\n')
    suite = SuiteConfig("mine", kind="harmful", path=str(file))
    recipe = replace(recipe, evaluation=EvaluationConfig(suites=[suite]))
    with Run.open(recipe, tmp_path / "run") as run:
        result = run.path / "evaluation/after.json"
        result.parent.mkdir()
        sources = {"mine": {"sha256": file_sha256(file)}}
        result.write_text(json.dumps({"settings": {"sources": sources}}))
        inputs = flow._inputs(run, Session(recipe), "evaluate")
        run.mark_done("evaluate", inputs)

        def done() -> bool:
            session = Session(recipe)
            assert flow._inputs(run, session, "evaluate") == inputs
            return flow._is_done(run, session, "evaluate", inputs)

        assert done()
        file.write_text('{"id": "a", "prompt": "Goodbye?"}\n')
        assert not done()
        file.unlink()  # a finished run goes on where its questions are not
        assert done()


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


def test_a_page_that_is_asked_for_is_written_again_and_a_newer_program_writes_another(
    recipe, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    page = folder / "report/report.html"
    for _ in range(2):
        run_pipeline(recipe, folder, stages=["report"])
        written = page.read_text()
        page.write_text("by an earlier program")
    assert "thinksafe-jax version" in written
    assert "inputs of report" not in written  # or it would not be the same page twice

    def is_done() -> bool:
        with Run.open(recipe, folder) as run:
            session = Session(recipe)
            return flow._is_done(run, session, "report", flow._inputs(run, session, "report"))

    assert is_done()
    monkeypatch.setattr(flow, "__version__", "9.9")
    assert not is_done()


def edit_prompts(recipe, change) -> None:
    """Rewrites the prompt file; `change` gets its rows by id."""
    file = Path(recipe.synthesis.prompts[0].path)
    rows = {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}
    change(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))


EDITS = {
    "text": (
        lambda rows: rows["a"].update(prompt="How do I run?"),
        "'a' has another text",
    ),
    "label": (lambda rows: rows["b"].update(label="benign"), "'b' is benign now, was harmful"),
    "response": (lambda rows: rows["c"].update(response="x"), "'c' has another response"),
    "gone": (lambda rows: rows.pop("d"), "'d' is gone"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_prompts_edited_within_a_run_are_refused_by_name(recipe, tmp_path, edit):
    """Its rows answer what was asked then: the dataset would hold the old text."""
    change, said = EDITS[edit]
    run_pipeline(recipe, tmp_path / "run", stages=["sample", "filter"])
    before = RowStore(tmp_path / "run/samples").read()
    edit_prompts(recipe, change)
    with pytest.raises(InputError, match=f"1 prompts were edited .*: {said}"):
        run_pipeline(recipe, tmp_path / "run", stages=["sample"])
    with pytest.raises(InputError, match="filter needs what sample makes"):
        run_pipeline(recipe, tmp_path / "run", stages=["filter"])
    assert RowStore(tmp_path / "run/samples").read() == before


def test_prompts_that_are_added_are_no_edit(recipe, tmp_path):
    run_pipeline(recipe, tmp_path / "run", stages=["sample"])
    edit_prompts(recipe, lambda rows: rows.update(e={**rows["a"], "id": "e", "prompt": "How?"}))
    run_pipeline(recipe, tmp_path / "run", stages=["sample"])
    assert [row["id"] for row in RowStore(tmp_path / "run/samples").rows()] == list("abcde")


def without(name):
    return lambda row: {key: value for key, value in row.items() if key != name}


BROKEN_ROWS = {
    "no finish_reason": (without("finish_reason"), "no finish_reason in the row"),
    "no label": (without("label"), "no label in the row"),
    "tokens as text": (lambda row: {**row, "tokens": "5"}, 'tokens is "5", which cannot be'),
    "a response of another kind": (lambda row: {**row, "response": 5}, "response is 5, which"),
    "an id that is a list": (lambda row: {**row, "id": ["a"]}, r'id is \["a"\], which cannot be'),
}


@pytest.mark.parametrize("broken", BROKEN_ROWS)
def test_rows_of_another_version_or_edited_are_named_by_file_and_line(recipe, tmp_path, broken):
    change, said = BROKEN_ROWS[broken]
    run_pipeline(recipe, tmp_path / "run", stages=["sample"])
    file = tmp_path / "run/samples/part-00000.jsonl"
    rows = list(map(json.loads, file.read_text().splitlines()))
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:1], change(rows[1])]))
    with pytest.raises(InputError, match=rf"part-00000.jsonl:2: {said}"):
        run_pipeline(recipe, tmp_path / "run", stages=["filter"])


def test_a_config_of_another_version_says_which_version_wrote_it(recipe, tmp_path):
    run_pipeline(recipe, tmp_path / "run", stages=["sample"])
    file = tmp_path / "run/config.yaml"
    written = file.read_text()
    file.write_text(written.replace("training:\n", "training:\n  muon_momentum: 0.95\n"))
    for read in (
        lambda: begun_recipe(tmp_path / "run"),
        lambda: run_pipeline(recipe, tmp_path / "run", stages=["sample"]),
    ):
        with pytest.raises(ConfigError, match=r"(?s)muon_momentum.*was begun with version \d"):
            read()
    file.write_text("".join(li for li in written.splitlines(True) if "heldout_rows" not in li))
    run_pipeline(recipe, tmp_path / "run", stages=["sample"])  # a key that is newer has its default
    with pytest.raises(ConfigError) as error:  # a slip of today is not another version's
        begun_recipe(tmp_path / "run", ["training.epocs=1"])
    assert "version" not in str(error.value)
