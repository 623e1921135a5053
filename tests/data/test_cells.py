"""Cells that hold something else than text: read as what they are, or refused with their place."""

import json
import math

import pyarrow
import pyarrow.parquet
import pytest

from thinksafe_jax.config import EvaluationConfig, PromptSource, SuiteConfig
from thinksafe_jax.data import load_prompts, load_questions
from thinksafe_jax.errors import InputError

MESSAGES = [{"role": "user", "content": "What is 17 + 25?"}]
NO_TEXT = [["70"], ["3", "5"], {"value": 70}, math.nan, math.inf, -math.inf, MESSAGES]
GOLDS = [(70, "70"), (70.0, "70.0"), (1e22, "1" + "0" * 22), (1e-7, "0.0000001"), (True, "true")]


def write(folder, **row) -> str:
    file = folder / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    return str(file)


def suite(path: str, kind: str = "reasoning"):
    return load_questions(EvaluationConfig(suites=[SuiteConfig("mine", kind, path)])).items


def listed(path: str, **columns: str):
    source = PromptSource(path=path, label="benign", **columns)
    return load_prompts([source], require_label=False)


@pytest.mark.parametrize(("value", "text"), GOLDS)
def test_a_gold_answer_that_is_a_number_is_that_number(tmp_path, value, text):
    path = write(tmp_path, prompt="q", answer=value)
    assert suite(path)[0].answer == text
    assert listed(path, answer_column="answer")[0].answer == text


@pytest.mark.parametrize("value", NO_TEXT, ids=repr)
@pytest.mark.parametrize("column", ["id", "answer", "response"])
def test_a_cell_that_is_no_text_and_no_number_is_refused(tmp_path, value, column):
    path = write(tmp_path, **{"prompt": "q", "answer": "1", column: value})
    with pytest.raises(InputError, match=rf"rows\.jsonl:1: the .* in column '{column}' is"):
        listed(path, **{f"{column}_column": column})
    if column != "response":
        with pytest.raises(InputError, match=rf"rows\.jsonl:1: the .* in column '{column}' is"):
            suite(path)


@pytest.mark.parametrize("value", [*NO_TEXT, 5, True, None], ids=repr)
def test_a_prompt_is_text(tmp_path, value):
    path = write(tmp_path, prompt=value)
    for read in (lambda: suite(path, "harmful"), lambda: listed(path)):
        with pytest.raises(InputError, match=r"rows\.jsonl:1: the prompt in column 'prompt' is"):
            read()


def test_messages_are_named_as_such(tmp_path):
    with pytest.raises(InputError, match="is a list of objects with role, content, not text"):
        suite(write(tmp_path, prompt=MESSAGES), "harmful")


def test_a_list_in_parquet_is_no_gold_answer(tmp_path):
    table = pyarrow.table({"question": ["q"], "answer": [["70"]]})
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(InputError, match=r"row 1: the gold answer in column 'answer' is a list"):
        suite(str(tmp_path / "list.parquet"))


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_empty_id_is_refused_in_suites_as_in_lists(tmp_path, value):
    path = write(tmp_path, id=value, prompt="q", answer="1")
    for read in (lambda: suite(path), lambda: listed(path, id_column="id")):
        with pytest.raises(InputError, match=r"rows\.jsonl:1: empty id in column 'id'"):
            read()


@pytest.mark.parametrize("column", ["prompt", "answer", "id"])
def test_half_a_surrogate_pair_is_refused_in_suites_as_in_lists(tmp_path, column):
    path = write(tmp_path, **{"prompt": "q", "answer": "1", "id": "a", column: "half \ud83d"})
    with pytest.raises(InputError, match=r"rows\.jsonl:1: half a surrogate pair \(.ud83d\)"):
        suite(path)
