"""Every way to make a dataset, on the mini world: what is in it, and that training takes it."""

import json
import shutil

import datasets
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from tests.support import REPOSITORY, transformers_tokenizer
from thinksafe_jax.cli.app import app
from thinksafe_jax.config import TrainingConfig, load_recipe
from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError
from thinksafe_jax.pipeline import run_pipeline
from thinksafe_jax.report import show_row
from thinksafe_jax.runs import RowStore
from thinksafe_jax.synthesis import push, read_dataset, write_authors_json
from thinksafe_jax.synthesis.publish import AUTHORS_COLUMNS
from thinksafe_jax.synthesis.sampled_rows import DIRECT_REFUSAL_ANSWER, SAFEPATH_PRIMER
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import build_examples
from thinksafe_jax.weights import resolve_model

pytestmark = pytest.mark.slow

SMALL = ["synthesis.limit=16", "engine.slots=16"]


def synthesise(folder, *overrides):
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini.yaml", [*SMALL, *overrides])
    run_pipeline(recipe, folder, stages=["sample"])
    run_pipeline(recipe, folder, stages=["filter"])
    return list(read_dataset(folder))


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    return folder, synthesise(folder)


def trainable(rows):
    tokenizer = ChatTokenizer(resolve_model("mini:student"))
    examples, counts = build_examples(tokenizer, rows, TrainingConfig(max_length=256))
    assert counts.pop("kept") == len(rows) and not any(counts.values())
    return tokenizer, examples


def test_the_ladder_and_its_files(ladder):
    folder, rows = ladder
    counts = json.loads((folder / "dataset/counts.json").read_text())
    assert sum(count["sampled"] for count in counts.values()) == 16
    assert len(rows) == sum(count["accepted"] for count in counts.values())
    facts = json.loads((folder / "manifest.json").read_text())["stages"]["sample"]["facts"]
    assert facts["prompts"] == 16 and len(facts["prompts_sha256"]) == 64
    card = (folder / "dataset/README.md").read_text()
    for said in ("accepted at attempt", "1: authors, temperature 0.6", "### Lengths",
                 "**Intended use.**", "## Licence", "guard's prompt (hash)"):  # fmt: skip
        assert said in card
    verdict = json.loads(next((folder / "verdicts").iterdir()).read_text().splitlines()[0])
    assert len(verdict["template"]) == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "unparsed"}, r"verdicts are unparsed.*--new-verdicts"),
        ({"template": "0" * 16}, r"different templates.*--new-verdicts"),
    ],
)
def test_verdicts_that_cannot_be_trusted_stop_the_run_and_lose_no_sample(
    ladder, tmp_path, changes, message
):
    folder, rows = tmp_path / "run", ladder[1]
    shutil.copytree(ladder[0], folder)
    shutil.rmtree(folder / "dataset")
    verdicts = RowStore(folder / "verdicts", ("id", "attempt"))
    first = verdicts.read()[0]
    verdicts.append([{**first, "id": f"other{n}", **changes} for n in range(20)])
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini.yaml", SMALL)
    with pytest.raises(InputError, match=message):
        run_pipeline(recipe, folder, stages=["filter"])
    samples = (folder / "samples/part-00000.jsonl").read_bytes()
    run_pipeline(recipe, folder, stages=["filter"], new_verdicts=True)
    assert list(read_dataset(folder)) == rows
    assert (folder / "samples/part-00000.jsonl").read_bytes() == samples


def test_datasets_loads_the_parquet_copy(ladder):
    folder, rows = ladder
    loaded = datasets.load_dataset(str(folder / "dataset"), split="train")
    assert loaded.to_list() == rows


def test_the_authors_json_goes_out_and_comes_in(ladder, tmp_path):
    """D14: what was synthesised can be trained on, from a file."""
    folder, rows = ladder
    out = tmp_path / "ThinkSafe-mini.json"
    assert write_authors_json(folder, out) == len(rows)
    assert json.loads(out.read_text()) == [{k: row[k] for k in AUTHORS_COLUMNS} for row in rows]
    source = {
        "path": str(out), "prompt_column": "instruction", "label_column": "prompt_label",
        "response_column": "response",
    }  # fmt: skip
    again = synthesise(
        tmp_path / "run", f"synthesis.prompts={json.dumps([source])}",
        "synthesis.method=external", "synthesis.attempts=1", "synthesis.ladder=[]",
    )  # fmt: skip
    key = sorted((row["instruction"], row["response"]) for row in rows)
    assert sorted((row["instruction"], row["response"]) for row in again) == key


def test_show_colours_what_the_loss_sees(ladder, tmp_path):
    folder, rows = ladder
    shown = show_row(folder, 3)
    parts = {str(span.style): shown.plain[span.start : span.end] for span in shown.spans}
    assert parts["green"].startswith("<think>") and parts["green"].endswith("<|im_end|>")
    assert rows[3]["instruction"] in parts["dim"]
    with pytest.raises(InputError, match="has no row 999"):
        show_row(folder, 999)
    with pytest.raises(ConfigError, match="no run directory"):
        show_row(tmp_path, 0)


def test_terminal_escapes_in_a_row_are_not_shown(ladder, tmp_path):
    """Fault 44."""
    folder, rows = ladder
    (tmp_path / "dataset").mkdir()
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    row = {**rows[0], "instruction": "\x1b[31mred\x1b]0;title\x07", "id": "\x1b[2J"}
    (tmp_path / "dataset/train.jsonl").write_text(json.dumps(row) + "\n")
    assert "\x1b" not in show_row(tmp_path, 0).plain


def test_rejection_sampling(tmp_path):
    rows = synthesise(
        tmp_path, "synthesis.method=rejection", "synthesis.ladder=[]", "synthesis.attempts=2",
        "synthesis.limit=40",
    )  # fmt: skip
    samples = RowStore(tmp_path / "samples", ("id", "attempt")).read()
    assert len(samples) == 80
    assert {row["steering"] for row in samples} == {"authors", "none"}
    trainable(rows)


def test_without_reasoning_harmful_rows_have_an_empty_block(tmp_path):
    rows = synthesise(tmp_path, "synthesis.harmful_reasoning=remove")
    tokenizer, _ = trainable(rows)
    for row in rows:
        empty = row["response"].startswith("<think>\n\n</think>\n\n")
        assert empty == (row["prompt_label"] == "harmful")
        # as Qwen3's own template writes it, with nothing dangling (D16)
        ids = tokenizer.response_ids(row["response"])
        assert transformers_tokenizer(tokenizer).decode(ids).count("<think>") == 1


def test_safepath_teaches_the_primer_and_no_end(tmp_path):
    rows = synthesise(
        tmp_path, "synthesis.method=safepath", "synthesis.reasoning=none",
        "synthesis.attempts=1", "synthesis.ladder=[]",
    )  # fmt: skip
    tokenizer, examples = trainable(rows)
    assert {row["prompt_label"] for row in rows} == {"harmful"}
    target = examples[0].token_ids[examples[0].loss_mask]
    assert transformers_tokenizer(tokenizer).decode(target) == f"<think>\n{SAFEPATH_PRIMER}"


def test_direct_refusals(tmp_path):
    rows = synthesise(
        tmp_path, "synthesis.method=direct-refusal", "synthesis.attempts=1", "synthesis.ladder=[]"
    )
    assert all(row["response"].endswith(DIRECT_REFUSAL_ANSWER) for row in rows)
    trainable(rows)


def test_a_teacher_answers_instead_of_the_student(tmp_path, ladder):
    """A student that cannot speak: the rows are the teacher's, and the card says so."""
    student = shutil.copytree(resolve_model("mini:student"), tmp_path / "mute")
    for file in student.glob("*.safetensors"):
        tensors = {name: np.zeros_like(tensor) for name, tensor in load_file(file).items()}
        save_file(tensors, file)
    rows = synthesise(
        tmp_path / "run", f"student.model={student}",
        "synthesis.teacher.model=mini:student", "synthesis.teacher.dtype=float32",
    )  # fmt: skip
    assert rows == ladder[1]
    card = (tmp_path / "run/dataset/README.md").read_text()
    assert "by mini:student, a teacher, and not by the student" in card
    assert "| teacher | mini:student |" in card


def test_push_needs_a_dataset_a_name_and_a_hub(ladder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no dataset yet"):
        push(tmp_path, "me/x")
    with pytest.raises(InputError, match="expected owner/name"):
        push(ladder[0], "x")
    with pytest.raises(EnvironmentFault, match="the Hub cannot be reached from here"):
        push(ladder[0], "me/x")  # the tests are offline


def test_the_commands(ladder, tmp_path):
    """thinksafe dataset show, and probe on a handful of prompts, as users call them."""

    def thinksafe(*arguments):
        done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    assert "tokens, " in thinksafe("dataset", "show", ladder[0], "--index", 1)
    recipe = REPOSITORY / "configs/recipes/mini.yaml"
    out = thinksafe(
        "probe", "-c", recipe, "--prompts", 24, "--template", "authors", "--out", tmp_path
    )
    assert "ω̂, 95 %" in out and "use synthesis.steering=authors" in out
    found = json.loads((tmp_path / "probe.json").read_text())
    plain, _, steered = found["arms"]
    assert (plain["template"], steered["template"]) == ("none", "authors")
    ratio = steered["odds_ratio"]
    assert 1 < ratio["low"] < ratio["value"] < ratio["high"]
    assert steered["acceptance"]["value"] > plain["acceptance"]["value"]
    assert steered["tokens_per_accepted"] < plain["tokens_per_accepted"]
    assert steered["expected_hours"] > 0
    assert (tmp_path / "probe.png").stat().st_size > 5_000
