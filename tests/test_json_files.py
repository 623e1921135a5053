"""Files from outside: each fault is one sentence that names the file; nothing else gets through."""

import ast
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import thinksafe_jax
from thinksafe_jax.errors import InputError
from thinksafe_jax.json_files import load_unique, parse_json, read_json, read_json_object, read_text

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 11422654\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, "a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
        (b"\n <HTML>", "an HTML page"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"a": 1,}', "line 1, column 9: not valid JSON"),
        (b'{"a": "caf\xe9"}', "not UTF-8 text (byte 10)"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8 text (byte 0)"),
        (b'{"a": 1, "b": {"eos": 1, "eos": 2}}', "the key 'eos' stands there twice"),
        (b'{"a": NaN}', "a is NaN, which is no JSON number"),
        (b'{"a": [{"b": -Infinity}]}', "a[0].b is -Infinity, which is no JSON number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[1]", "a JSON object was expected, not list"),
        (b'"text"', "a JSON object was expected, not str"),
        (b'{"a": "' + b"x" * 2000 + b'"}', "has 2,009 bytes; at most 1,000 are read"),
    ],
)
def test_a_fault_is_one_sentence_that_names_the_file(tmp_path, content, message):
    file = tmp_path / "side.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json_object(file, largest=1_000 if b"xxx" in content else 10**6)
    text = str(caught.value)
    assert text.startswith(str(file)) and message in text and len(text.splitlines()) == 1


def test_folders_devices_pipes_and_missing_files_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="is no regular file"):
            read_text(file)
    with pytest.raises(InputError, match="not found"):
        read_text(tmp_path / "absent")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is no regular file"):
        read_json(tmp_path / "zero")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    file = tmp_path / "bom.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, "\xc3\xa9", null, true]}')
    assert read_json(file) == {"a": [1, 2.5, "é", None, True]}


def test_a_row_may_hold_nan_and_no_key_twice():
    assert (
        str(load_unique('{"score": NaN, "mass": 1e999}', nan=True)) == "{'score': nan, 'mass': inf}"
    )
    for text, said in (
        ('{"verdict": "safe", "verdict": "unsafe"}', "the key 'verdict' stands there twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "the key 'b' stands there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("{'a': 1}", "Expecting property name"),
    ):
        with pytest.raises(ValueError, match=said):
            load_unique(text, nan=True)


# what is not read from a file of somebody else, or refuses by other means
READ_OTHERWISE = {
    "evaluation/answers/equality.py": "answers of a worker process of its own",
    "evaluation/answers/equality_worker.py": "requests of the process that started it",
    "evaluation/published.py": "a file of the package",
    "hosts/connection.py": "messages between hosts, each field of which is checked",
    "tokenizer/chat_template.py": "answers of a worker process of its own",
    "tokenizer/chat_template_worker.py": "requests of the process that started it",
    "tokenizer/plain_text.py": "what the tokenizers library has just written",
    "weights/identity.py": "a header for its offsets; what is wrong with it is said by the loader",
}


def test_json_from_outside_is_read_strictly():
    """`json.loads` takes the last of two equal keys and nests until Python's stack ends."""
    package = Path(thinksafe_jax.__file__).parent
    readers = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in (("json", "loads"), ("json", "load"))
    }
    assert readers == set(READ_OTHERWISE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_what_json_writes_is_read_back(value):
    assert parse_json(json.dumps(value), "x") == value


@given(VALUES, st.integers(0, 10**6), st.binary(max_size=3))
def test_bytes_that_were_changed_are_read_or_refused(tmp_path_factory, value, place, put):
    file = tmp_path_factory.getbasetemp() / "mutated.json"
    content = json.dumps(value).encode()
    place %= len(content)
    file.write_bytes(content[:place] + put + content[place + len(put) :])
    try:
        read_json(file)
    except InputError as error:
        assert str(file) in str(error)
