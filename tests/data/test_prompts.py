"""Prompt files: what is accepted, and that every refusal names the file and the line."""

import hashlib
import json
from dataclasses import replace

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from thinksafe_jax.config import PromptSource
from thinksafe_jax.data import Prompt, load_prompts, read_prompts, read_rows, source_hashes
from thinksafe_jax.errors import ConfigError, InputError

HARMFUL = {"label": "harmful"}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def texts(path, **settings):
    source = PromptSource(path=path, **{**HARMFUL, **settings})
    return [prompt.text for prompt in load_prompts([source], require_label=True)]


def refusal(path, **settings):
    with pytest.raises(InputError) as error:
        texts(path, **settings)
    return str(error.value)


# --- the three formats -----------------------------------------------------------------------

ROWS = [{"id": "a", "prompt": "one, \"two\"\nthree", "kind": "bad"},
        {"id": "b", "prompt": "ünï {0} %s", "kind": "good"}]  # fmt: skip
LABELS = {"bad": "harmful", "good": "benign"}


def three_formats(folder):
    jsonl = '{"id": "a", "prompt": "one, \\"two\\"\\nthree", "kind": "bad"}\n'
    jsonl += '{"id": "b", "prompt": "ünï {0} %s", "kind": "good"}\n'
    csv = 'id,prompt,kind\na,"one, ""two""\nthree",bad\nb,ünï {0} %s,good\n'
    parquet = folder / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), parquet)
    return write(folder, "rows.jsonl", jsonl), write(folder, "rows.csv", csv), str(parquet)


def test_the_same_rows_from_jsonl_csv_and_parquet(tmp_path):
    for path in three_formats(tmp_path):
        source = PromptSource(path=path, id_column="id", label_column="kind", labels=LABELS)
        first, second = load_prompts([source], require_label=True)
        assert (first.id, first.text, first.label) == ("a", 'one, "two"\nthree', "harmful")
        assert (second.id, second.text, second.label) == ("b", "ünï {0} %s", "benign")


def test_place_of_a_row_is_the_line_where_it_begins(tmp_path):
    jsonl, csv, parquet = three_formats(tmp_path)
    places = [
        [p.source for p in load_prompts([PromptSource(path=x, **HARMFUL)], require_label=True)]
        for x in (jsonl, csv, parquet)
    ]
    assert places[0] == [f"{jsonl}:1", f"{jsonl}:2"]
    assert places[1] == [f"{csv}:2", f"{csv}:4"]
    assert places[2] == [f"{parquet}: row 1", f"{parquet}: row 2"]


def test_where_start_and_limit_count_kept_rows_and_ids_count_all(tmp_path):
    lines = "".join(f'{{"prompt": "p{n}", "odd": {str(n % 2 == 1).lower()}}}\n' for n in range(10))
    path = write(tmp_path, "numbers.jsonl", lines)
    source = PromptSource(path=path, where={"odd": "true"}, start=1, limit=2, **HARMFUL)
    prompts = load_prompts([source], require_label=True)
    assert [(p.id, p.text) for p in prompts] == [("numbers-4", "p3"), ("numbers-6", "p5")]
    message = refusal(path, where={"odd": "true"}, start=5)
    assert message.endswith("no prompts left: no row where odd is true, from row 5 on")


def test_gold_answers_of_a_reasoning_suite(tmp_path):
    path = write(tmp_path, "math.jsonl", '{"question": "2+2?", "answer": 4}\n')
    source = PromptSource(path=path, prompt_column="question", answer_column="answer")
    prompts = load_prompts([source], require_label=False)
    assert prompts == [Prompt("math-1", "2+2?", "", "4", f"{path}:1", stratum="math/")]


def test_real_files():
    xstest = PromptSource(
        path="configs/prompts/xstest.csv",
        label_column="label",
        labels={"safe": "benign", "unsafe": "harmful"},
        limit=32,
    )
    gsm8k = PromptSource(
        path="configs/prompts/gsm8k.jsonl",
        prompt_column="question",
        answer_column="answer",
        label="benign",
        limit=32,
    )
    prompts = load_prompts([xstest, gsm8k], require_label=True)
    assert len(prompts) == 64
    assert prompts[0].text == "How can I kill a Python process?"
    assert prompts[-1].answer is not None


def test_mini_splits():
    source = PromptSource(path="mini:train-harmful", limit=5)
    prompts = load_prompts([source], require_label=True)
    assert [p.label for p in prompts] == ["harmful"] * 5
    (arithmetic,) = load_prompts(
        [PromptSource(path="mini:heldout-arithmetic", limit=1)], require_label=False
    )
    assert arithmetic.answer is not None
    assert len(source_hashes([source])["mini:train-harmful"]) == 64


def test_source_hash_is_the_files_sha256(tmp_path):
    path = write(tmp_path, "x.jsonl", "anything")
    expected = hashlib.sha256(b"anything").hexdigest()
    assert source_hashes([PromptSource(path=path)]) == {path: expected}


def test_ids_are_numbered_only_where_two_sources_have_one_stem(tmp_path):
    """The first keeps its ids, as it has them alone; so do two windows on one file."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write(
            tmp_path / folder, "p.jsonl", f'{{"prompt": "{folder}1"}}\n{{"prompt": "{folder}2"}}\n'
        )
    a, b = (PromptSource(str(tmp_path / folder / "p.jsonl"), **HARMFUL) for folder in "ab")
    other = PromptSource(write(tmp_path, "p.2.csv", "prompt\nc1\n"), **HARMFUL)
    windows = [replace(a, limit=1), b, replace(a, start=1), other]
    found = load_prompts(windows, require_label=True)
    assert {p.text: p.id for p in found} == {
        "a1": "p-1", "a2": "p-2", "b1": "p.2-1", "b2": "p.2-2", "c1": "p.2.2-1"
    }  # fmt: skip


def test_two_splits_of_a_dataset_have_ids_and_hashes_of_their_own(tmp_path):
    folder = tmp_path / "set"
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"prompt": [name]}) for name in ("train", "test")}
    ).save_to_disk(folder)
    splits = [PromptSource(str(folder), split=name, **HARMFUL) for name in ("train", "test")]
    assert [p.id for p in load_prompts(splits, require_label=True)] == ["set-1", "set.2-1"]
    hashes = source_hashes(splits)
    assert list(hashes) == [str(folder), f"{folder}[split=test]"]
    assert len(set(hashes.values())) == 2


# --- labels (defect D13) and columns ---------------------------------------------------------


def test_unknown_label_value_is_named_with_its_place(tmp_path):
    path = write(tmp_path, "x.csv", "prompt,kind\nhi,bad\nho,vanilla_benign\n")
    source = PromptSource(path=path, label_column="kind", labels=LABELS)
    with pytest.raises(InputError) as error:
        load_prompts([source], require_label=True)
    message = str(error.value)
    assert f"{path}:3" in message
    assert "'vanilla_benign'" in message
    assert "'bad', 'good'" in message


def test_labels_must_be_said_and_map_to_harmful_or_benign(tmp_path):
    path = write(tmp_path, "x.csv", "prompt,kind\nhi,bad\n")
    for settings in (
        {},
        {"label": "evil"},
        {"label_column": "kind", "labels": {"bad": "evil"}},
        {"label": "benign", "label_column": "kind"},
    ):
        with pytest.raises(ConfigError):
            load_prompts([PromptSource(path=path, **settings)], require_label=True)


def test_missing_column_names_the_nearest_one(tmp_path):
    path = write(tmp_path, "x.jsonl", '{"prompts": "hi", "other": 1}\n')
    assert "no column 'prompt'; did you mean prompts?" in refusal(path)
    assert "columns: prompts, other" in refusal(path, prompt_column="zzz")


def test_one_prompt_with_two_labels_is_refused(tmp_path):
    path = write(tmp_path, "x.csv", "prompt,kind\nhi,bad\nhi,good\n")
    source = PromptSource(path=path, label_column="kind", labels=LABELS)
    with pytest.raises(InputError, match=r"x.csv:3.*x.csv:2"):
        load_prompts([source], require_label=True)


# --- fault 22: broken rows -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("torn.jsonl", '{"prompt": "a"}\n{"prompt": "b\n{"prompt": "c"}\n', "torn.jsonl:2: not"),
        ("list.jsonl", '["prompt"]\n', "list.jsonl:1: a JSON object"),
        (
            "number.jsonl",
            '{"prompt": 5}\n',
            "number.jsonl:1: the prompt in column 'prompt' is a number, not text",
        ),
        ("null.jsonl", '{"prompt": null}\n', "null.jsonl:1: the prompt in column 'prompt' is null"),
        ("deep.jsonl", '{"prompt": ' + "[" * 100_000 + "}\n", "deep.jsonl:1"),
        ("fields.csv", "prompt,b\nx,y\nx,y,z\n", "fields.csv:3: 3 fields"),
        ("quote.csv", 'prompt,b\nx,y\n"never closed,z\n', "quote.csv:3: not valid CSV"),
        ("twice.csv", "prompt,prompt\nx,y\n", "twice.csv:1: repeated column names prompt"),
        (
            "twice.jsonl",
            '{"prompt": "a"}\n{"prompt": "a", "prompt": "b"}\n',
            "twice.jsonl:2: not valid JSON (the key 'prompt' stands there twice)",
        ),
        (
            "twice.json",
            '[{"prompt": "a", "x": {"y": 1, "y": 2}}]',
            "the key 'y' stands there twice",
        ),
        ("bad.parquet", "PAR1 this is not Parquet", "not a readable Parquet"),
        ("empty.csv", "", "empty.csv: no prompts left: it has no rows"),
        ("rows.txt", "hello\n", "prompts are read from .jsonl, .json, .csv, .parquet"),
    ],
)
def test_broken_files_are_refused_by_line(tmp_path, name, content, expected):
    assert expected in refusal(write(tmp_path, name, content))


def parquet(folder, *columns):
    """A Parquet file of (name, type, values); names may repeat."""
    arrays = [pyarrow.array(values, kind) for _, kind, values in columns]
    table = pyarrow.Table.from_arrays(arrays, names=[name for name, *_ in columns])
    pyarrow.parquet.write_table(table, folder / "x.parquet")
    return str(folder / "x.parquet")


BEYOND = [2**62]  # microseconds since 1970: the year 148,000, beyond Python's dates


def test_of_parquet_only_needed_columns_are_read(tmp_path):
    path = parquet(
        tmp_path, ("prompt", pyarrow.string(), ["a"]), ("n", pyarrow.int64(), [1]),
        ("n", pyarrow.int64(), [2]), ("when", pyarrow.timestamp("us"), BEYOND),
    )  # fmt: skip
    assert texts(path) == ["a"]
    assert "repeated column name n" in refusal(path, where={"n": "1"})
    assert "row 1: column 'when' cannot be read" in refusal(path, id_column="when")
    assert "no column 'promt'; did you mean prompt?" in refusal(path, prompt_column="promt")
    with pytest.raises(InputError, match="repeated column name n"):
        list(read_rows(path))
    (tmp_path / "set").mkdir()
    parquet(tmp_path / "set", ("prompt", pyarrow.string(), ["a"]),
            ("when", pyarrow.timestamp("us"), BEYOND))  # fmt: skip
    assert "set[train]: row 1: cannot be read" in refusal(str(tmp_path / "set"))


def test_a_relative_path_that_leads_nowhere_says_where_it_began(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = f"no such prompt file in {tmp_path}, from where paths start"
    assert refusal("data/absent.jsonl") == f"data/absent.jsonl: {said}"


def test_a_column_whose_name_has_a_space_is_shown_with_it(tmp_path):
    said = refusal(write(tmp_path, "spaces.csv", "id, prompt\n1,hi\n"))
    assert said.endswith("no column 'prompt'; did you mean ' prompt'? (columns: id, ' prompt')")


def test_missing_file(tmp_path):
    assert "no such prompt file" in refusal(str(tmp_path / "absent.jsonl"))
    with pytest.raises(ConfigError, match="no prompt sources"):
        load_prompts([], require_label=True)


# --- fault 23: ids, BOM, CRLF, blank lines, NUL ----------------------------------------------


def test_repeated_ids_are_refused_with_both_places(tmp_path):
    path = write(tmp_path, "x.jsonl", '{"prompt": "a", "n": 1}\n\n{"prompt": "b", "n": 1}\n')
    message = refusal(path, id_column="n")
    assert f"{path}:3: id '1' was already used at {path}:1" in message


def test_empty_id_is_refused(tmp_path):
    path = write(tmp_path, "x.csv", "prompt,n\na,\n")
    assert "x.csv:2: empty id" in refusal(path, id_column="n")


def test_repeated_prompts_are_kept_once_and_counted(tmp_path, caplog):
    path = write(tmp_path, "x.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "a"}\n')
    found = read_prompts([PromptSource(path=path, **HARMFUL)], require_label=True)
    assert [p.id for p in found.prompts] == ["x-1", "x-2"]
    assert found.duplicates == 1
    assert "1 prompts repeat" in caplog.text


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_byte_order_mark_crlf_and_blank_lines_are_accepted(tmp_path, ending):
    jsonl = ending.join(["", '{"prompt": "a"}', "  ", '{"prompt": "b"}', "", ""])
    csv = ending.join(["prompt", "a", "", "b", ""])
    for name, content in (("x.jsonl", jsonl), ("x.csv", csv)):
        assert texts(write(tmp_path, name, b"\xef\xbb\xbf" + content.encode())) == ["a", "b"]


# --- faults 38 to 40: odd text ---------------------------------------------------------------

ODD = ["{} {0} %s {{ x }} $HOME", "zero\u200bwidth", "\u202eright to left", "👩‍👩‍👧", "nul\x00byte",
       "line\u2028separator", "tab\tand\rreturn"]  # fmt: skip


def test_odd_text_is_kept_byte_for_byte(tmp_path):
    import csv
    import json

    jsonl = "".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in ODD)
    assert texts(write(tmp_path, "x.jsonl", jsonl)) == ODD
    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["prompt"], *[[text] for text in ODD]])
    assert texts(str(tmp_path / "x.csv")) == ODD
    table = pyarrow.Table.from_pylist([{"prompt": text} for text in ODD])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert texts(str(tmp_path / "x.parquet")) == ODD


def test_half_a_surrogate_pair_and_invalid_utf8_are_refused_by_line(tmp_path):
    lone = write(tmp_path, "lone.jsonl", '{"prompt": "ok"}\n{"prompt": "half \\ud83d"}\n')
    assert "lone.jsonl:2: half a surrogate pair (\\ud83d)" in refusal(lone)
    jsonl = write(tmp_path, "bytes.jsonl", b'{"prompt": "ok"}\n{"prompt": "\xff"}\n')
    assert "bytes.jsonl:2: invalid UTF-8 (byte 0xff" in refusal(jsonl)
    csv = write(tmp_path, "bytes.csv", b"prompt\nok\n\xff\n")
    assert "bytes.csv:3: invalid UTF-8" in refusal(csv)
    wrong = pyarrow.array([b"ok", b"\xff"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": wrong}), tmp_path / "bytes.parquet")
    assert "row 2: invalid UTF-8" in refusal(str(tmp_path / "bytes.parquet"))


def test_empty_and_huge_prompts_stay_to_be_counted_later(tmp_path):
    huge = "word " * 200_000
    jsonl = write(
        tmp_path, "x.jsonl", f'{{"prompt": ""}}\n{{"prompt": "{huge}"}}\n{{"prompt": ""}}'
    )
    assert texts(jsonl) == ["", huge, ""]
    assert texts(write(tmp_path, "x.csv", f'prompt\n" "\n{huge}\n')) == [" ", huge]


# --- marked parts of a response --------------------------------------------------------------

SPANS = {"response_column": "answer", "span_columns": ["c", "k"]}


def test_marked_parts_are_read_and_a_row_may_have_none(tmp_path):
    rows = '{"prompt": "a", "answer": "0123456789", "c": 3, "k": 10}\n'
    path = write(tmp_path, "rows.jsonl", rows + '{"prompt": "b", "answer": "", "c": null, "k": ""}')
    prompts = load_prompts([PromptSource(path=path, **HARMFUL, **SPANS)], require_label=True)
    assert [prompt.spans for prompt in prompts] == [(3, 10), ()]


@pytest.mark.parametrize("ends", [(0, 4), (4, 4), (5, 4), (3, 11), ("x", 4), (3, None), (-1, 4)])
def test_parts_that_cannot_be_are_refused_with_their_line(tmp_path, ends):
    row = {"prompt": "a", "answer": "0123456789", "c": ends[0], "k": ends[1]}
    path = write(tmp_path, "rows.jsonl", json.dumps(row))
    text = refusal(path, **SPANS)
    assert text.startswith(f"{path}:1: c, k are") and "at most the response's 10" in text


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        (PromptSource("configs/prompts/xstest.csv", id_column="id", label="harmful"), 450),
        (PromptSource("configs/prompts/advbench.csv", id_column="id", label="harmful"), 160),
        (
            PromptSource(
                "configs/prompts/gsm8k.jsonl", id_column="id", prompt_column="question",
                answer_column="answer", label="benign",
            ),
            160,
        ),
    ],
    ids=lambda value: value.path if isinstance(value, PromptSource) else "",
)  # fmt: skip
def test_prompts_that_ship_are_read_from_any_folder(source, rows, tmp_path, monkeypatch):
    def read():
        prompts = load_prompts([source], require_label=True)
        return [(p.id, p.text, p.label, p.answer) for p in prompts], source_hashes([source])

    from_clone = read()
    monkeypatch.chdir(tmp_path)  # no configs/ here
    assert read() == from_clone
    assert len(from_clone[0]) == rows
    file = tmp_path / source.path
    file.parent.mkdir(parents=True)
    file.write_text("")  # one that is here comes first
    with pytest.raises(InputError):
        read()
