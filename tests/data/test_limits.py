"""Files that are large, wide or packed, and files by other names: refused soon, with the number."""

import json
import time

import pyarrow
import pyarrow.parquet
import pytest

from thinksafe_jax.data import read_rows, readers
from thinksafe_jax.errors import InputError


def refusal(path) -> str:
    with pytest.raises(InputError) as error:
        list(read_rows(path))
    return str(error.value)


def test_a_header_of_a_hundred_thousand_columns_is_read_in_time(tmp_path):
    file = tmp_path / "wide.csv"
    file.write_text(",".join(f"c{n}" for n in range(100_000)) + "\n" + "x," * 99_999 + "x\n")
    start = time.perf_counter()
    (row,) = read_rows(file)
    assert len(row.values) == 100_000
    assert time.perf_counter() - start < 5


def test_too_many_columns_are_refused_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MOST_COLUMNS", 3)
    (tmp_path / "wide.csv").write_text("a,b,c,d\n1,2,3,4\n")
    assert "wide.csv:1: 4 columns; at most 3 are read" in refusal(tmp_path / "wide.csv")
    columns = {name: [1] for name in "abcd"}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "wide.parquet")
    assert "4 columns; at most 3" in refusal(tmp_path / "wide.parquet")


def test_a_message_lists_some_of_many_columns(tmp_path):
    error = readers.no_column("x.csv:1", "prompt", [f"c{n}" for n in range(100_000)])
    assert len(str(error)) < 300
    assert "c19 and 99,980 more" in str(error)


def test_a_line_without_end_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MOST_ROW", 1000)
    file = tmp_path / "long.jsonl"
    file.write_text('{"prompt": "fits"}\n{"prompt": "' + "x" * 5000 + '"}\n')
    assert "long.jsonl:2: the line is larger than" in refusal(file)


def test_a_field_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MOST_ROW", 1000)
    file = tmp_path / "long.csv"
    file.write_text('prompt\n"' + "x" * 5000 + '"\n')
    assert "field larger than field limit (1000)" in refusal(file)


@pytest.mark.parametrize("name", ["whole.json", "whole.csv"])
def test_a_file_that_is_read_whole_has_a_limit(tmp_path, monkeypatch, name):
    monkeypatch.setattr(readers, "MOST_WHOLE", 10)
    (tmp_path / name).write_text('[{"prompt": "longer than ten"}]')
    assert "files are read whole, up to" in refusal(tmp_path / name)


def test_parquet_that_unpacks_to_more_than_it_may_is_refused_by_its_own_figures(
    tmp_path, monkeypatch
):
    file = tmp_path / "bomb.parquet"
    table = pyarrow.table({"prompt": ["x" * 100_000], "other": ["y" * 3_000_000]})
    pyarrow.parquet.write_table(table, file, compression="zstd")
    assert file.stat().st_size < 10_000
    monkeypatch.setattr(readers, "MOST_WHOLE", 1_000_000)
    assert "column 'other' of row group 0 unpacks to" in refusal(file)
    assert len(list(read_rows(file, {"prompt"}))) == 1  # what is not needed is not unpacked


@pytest.mark.slow
def test_a_text_that_all_rows_share_is_kept_once(tmp_path):
    """20,000 rows of one megabyte are twenty gigabytes if each has its own copy."""
    file = tmp_path / "shared.parquet"
    shared = pyarrow.array(["x" * 1_000_000]).dictionary_encode()
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 20_000), shared.dictionary)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": rows}), file)
    assert sum(len(row.values["prompt"]) == 1_000_000 for row in read_rows(file)) == 20_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl.gz", "", "not '.gz'; unpack it first"),
        ("rows.ndjson", "", "rename it to .jsonl"),
        ("rows.tsv", "", "save it with commas"),
        ("rows.jsonl", '[\n{"prompt": "x"}\n]\n', "name the file .json"),
        ("rows.json", '{"prompt": "a"}\n{"prompt": "b"}\n', "one object a line is .jsonl"),
        ("rows.csv", "prompt,,\na,b,c\n", "repeated column names '' (no name)"),
    ],
)
def test_files_by_other_names_have_a_hint_that_fits(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    assert said in refusal(tmp_path / name)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_csv_with_another_separator_is_named_as_such(tmp_path, mark):
    file = tmp_path / "rows.csv"
    file.write_text(f"id{mark}prompt\n1{mark}hello\n")
    (row,) = read_rows(file)
    error = readers.no_column(row.place, "prompt", list(row.values))
    assert f"separated by {mark!r}: save it with commas" in str(error)
    assert json.dumps(row.values)
