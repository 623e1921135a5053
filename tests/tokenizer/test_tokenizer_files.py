"""A checkpoint's tokenizer files are data: nothing of them is run, each fault is one sentence."""

import ast
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import REPOSITORY, transformers_tokenizer
from tests.tokenizer.kit import CHATML, edit, student
from thinksafe_jax.errors import InputError, ThinkSafeError
from thinksafe_jax.tokenizer import ChatTokenizer

TURN = "<|turn|>"  # at 1535, the last row of the embedding, from where </think> is taken away
ADDED = {"content": TURN, "lstrip": False, "normalized": False, "rstrip": False,
         "single_word": False, "special": True}  # fmt: skip
TURNS = f"{TURN}user\n{{{{ messages[0]['content'] }}}}<|im_end|>\n{TURN}assistant\n"


def ids(folder):
    """All that a run asks a tokenizer for."""
    tokenizer = ChatTokenizer(folder)
    return tokenizer.prompt_ids("hello"), tokenizer.eos_ids, tokenizer.end_of_turn_id


# remote code (issue 15 F33)


@pytest.mark.parametrize("tokenizer_class", ["OtherTokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("auto_map", [
    {"AutoTokenizer": ["other.Other", "other.Other"]}, {"AutoTokenizer": [None, "other.Other"]},
    ["other.Other", None], "other.Other",
])  # fmt: skip
def test_a_tokenizer_that_wants_code_is_refused_from_its_json(
    tmp_path, capfd, auto_map, tokenizer_class
):
    folder = student(tmp_path / "m", auto_map=auto_map, tokenizer_class=tokenizer_class)
    mark = tmp_path / "ran"
    (folder / "other.py").write_text(f"open({str(mark)!r}, 'w')\nclass Other: pass\n")
    edit(folder / "config.json", model_type="unknown")
    with pytest.raises(InputError, match="remote code, which is never executed"):
        ids(folder)
    assert not mark.exists()
    assert capfd.readouterr() == ("", "")  # nothing was asked


def test_no_command_runs_code_of_a_checkpoint_though_yes_is_typed(tmp_path):
    """Every door by which a checkpoint comes in: a model, an adapter's base, a guard, a judge."""
    folder = student(tmp_path / "m", auto_map={"AutoTokenizer": [None, "other.Other"]},
                     tokenizer_class="OtherTokenizer")  # fmt: skip
    mark = tmp_path / "ran"
    (folder / "other.py").write_text(f"open({str(mark)!r}, 'w')\nclass Other: pass\n")
    script = f"""
from thinksafe_jax.config import GuardConfig
from thinksafe_jax.errors import ThinkSafeError
from thinksafe_jax.guards import load_guard
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import verify_model
folder = {str(folder)!r}
doors = [lambda: ChatTokenizer(folder), lambda: load_guard(GuardConfig(model=folder))]
for api in ("tokens", "completions"):
    served = GuardConfig(model=folder, url="http://127.0.0.1:9/v1", api=api)
    doors.append(lambda served=served: load_guard(served))
for door in doors:
    try:
        door()
    except ThinkSafeError as error:
        print("refused", "remote code" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], input="y\n" * 99, text=True, check=False,
                          capture_output=True, cwd=REPOSITORY, timeout=120)  # fmt: skip
    assert done.stdout == "refused True\n" * 4, done.stderr[-2000:]
    assert not mark.exists()


def test_every_call_into_transformers_says_that_no_code_is_run():
    calls = [
        (file, call)
        for file in (REPOSITORY / "thinksafe_jax").rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "from_pretrained"
        and getattr(getattr(call.func, "value", None), "id", "").startswith("Auto")
    ]  # fmt: skip
    assert calls  # verify compares with transformers
    for file, call in calls:
        said = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        assert said.get("trust_remote_code") is False, file


# control tokens that one file alone names (issue 15 B7)


@pytest.fixture
def split(tmp_path):
    """A student whose tokenizer.json knows <|turn|> as letters, and whose template uses it."""
    folder = student(tmp_path / "m", chat_template=TURNS)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "</think>"]
    content["model"]["vocab"].pop("</think>", None)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.mark.usefixtures("rendered_here")
@pytest.mark.parametrize(
    ("file", "content"),
    [
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"1535": ADDED}},
        ),
        ("tokenizer_config.json", {"additional_special_tokens": [TURN]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"turn_token": TURN}}),
        ("added_tokens.json", {TURN: 1535}),
        ("special_tokens_map.json", {"additional_special_tokens": [TURN]}),
    ],
)
def test_a_token_that_one_file_names_is_taken_as_transformers_takes_it(split, file, content):
    target = split / file
    before = json.loads(target.read_text()) if target.exists() else {}
    target.write_text(json.dumps({**before, **content}))
    tokenizer = ChatTokenizer(split)
    theirs = transformers_tokenizer(tokenizer).apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=True, return_dict=False
    )
    assert tokenizer.prompt_ids("hello") == theirs
    assert theirs.count(1535) == 2
    assert 1535 not in tokenizer.encode_text(f"a {TURN} b")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", {TURN: 1600}),
        ("added_tokens.json", {"<|im_end|>": 7}),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"1700": ADDED}},
        ),
    ],
)
def test_files_that_give_a_token_different_ids_are_refused(split, file, content):
    target = split / file
    before = json.loads(target.read_text()) if target.exists() else {}
    target.write_text(json.dumps({**before, **content}))
    with pytest.raises(InputError, match=r"is declared with id .* gives it"):
        ChatTokenizer(split)


def test_ids_with_gaps_are_refused(tmp_path):
    folder = student(tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][-1]["id"] = 9000
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="declared with id 9000"):
        ChatTokenizer(folder)


# broken files (issue 15 D24)

BROKEN = {
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 11422654\n",
    "html": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "empty": b"",
    "comma": b'{"eos_token_id": [1533, 1531],}',
    "list": b"[]",
    "twice": b'{"eos_token_id": 1533, "eos_token_id": 1531}',
    "latin": b'{"note": "caf\xe9"}',
    "text": b'"text"',
}


@pytest.mark.usefixtures("rendered_here")
@pytest.mark.parametrize("broken", sorted(BROKEN))
@pytest.mark.parametrize("name", [
    "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
    "added_tokens.json", "config.json", "chat_template.jinja",
])  # fmt: skip
def test_a_broken_file_is_one_sentence_that_names_it(tmp_path, name, broken):
    folder = student(tmp_path / "m")
    (folder / name).write_bytes(BROKEN[broken])
    if name == "chat_template.jinja" and broken in ("comma", "list", "twice", "text", "empty"):
        expected = "chat template"  # a text as good as any, which shows no turn
    else:
        expected = name
    with pytest.raises(InputError) as caught:
        ids(folder)
    assert expected in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_a_byte_order_mark_is_no_fault(tmp_path, name):
    folder = student(tmp_path / "m")
    expected = ids(folder)
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert ids(folder) == expected


@pytest.mark.parametrize("other", ["tokenizer.model", "vocab.json", "tekken.json"])
def test_another_kind_of_tokenizer_file_comes_with_the_way_out(tmp_path, other):
    folder = student(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="is it a complete checkpoint"):
        ChatTokenizer(folder)
    (folder / other).write_text("{}")
    with pytest.raises(InputError, match=f"it has {other}, from which transformers makes one"):
        ChatTokenizer(folder)


def test_a_normalizer_that_makes_a_text_grow_is_refused(tmp_path):
    """Issue 15 F37: thirty replacements of a space by two make a gigabyte of one."""
    folder = student(tmp_path / "m")
    doubled = {"type": "Replace", "pattern": {"String": " "}, "content": "  "}
    edit(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [doubled] * 30})
    with pytest.raises(InputError, match="makes up to 1,073,741,824 characters of one"):
        ChatTokenizer(folder)


@pytest.mark.usefixtures("rendered_here")
@pytest.mark.parametrize("templates", [
    [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}],
    {"tool_use": "x", "default": CHATML},
])  # fmt: skip
def test_of_several_templates_the_default_one_is_taken(tmp_path, templates):
    folder = student(tmp_path / "m")
    expected = ids(folder)
    edit(folder / "tokenizer_config.json", chat_template=templates)
    assert ids(folder) == expected
    edit(folder / "tokenizer_config.json", chat_template={"rag": CHATML, "tool_use": "x"})
    with pytest.raises(InputError, match="none is called 'default'"):
        ids(folder)
    (folder / "chat_template.jinja").write_text(CHATML)
    assert ids(folder) == expected


@pytest.mark.usefixtures("rendered_here")
def test_a_role_that_no_file_names_is_refused_where_its_class_would_know_it(tmp_path):
    """LlamaTokenizer's own default of bos_token is transformers' knowledge, and no file's."""
    folder = student(tmp_path / "m", chat_template="{{ bos_token }}" + CHATML)
    assert ids(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    with pytest.raises(InputError, match="the chat template writes bos_token, which no file names"):
        ids(folder)
    edit(folder / "tokenizer_config.json", bos_token=None)
    assert ids(folder)


VALUES = st.sampled_from([None, True, -1, 10**30, 1.5, "", "x", [], [1], {}, {"a": [None]}])


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_at_any_key_is_read_or_refused(tmp_path_factory, data):
    """Issue 15 D: no traceback, whatever was edited by hand."""
    folder = tmp_path_factory.mktemp("mutated") / "m"
    student(folder)
    name = data.draw(st.sampled_from(
        ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"]
    ))  # fmt: skip
    content = json.loads((folder / name).read_text())
    place = content
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [k for k, v in place.items() if isinstance(v, dict) and v and k != "vocab"]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(sorted(inner)))]
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(VALUES)
    (folder / name).write_text(json.dumps(content))
    try:
        ids(folder)
    except ThinkSafeError as error:
        assert len(str(error).splitlines()) == 1


def test_half_a_surrogate_pair_is_no_token(tmp_path):
    """Fuzzing ended in a UnicodeEncodeError of the tokenizers library."""
    folder = student(tmp_path / "m")
    (folder / "special_tokens_map.json").write_text('{"eos_token": "\\ud800"}')
    with pytest.raises(InputError, match=r"the token '\\ud800' is damaged"):
        ChatTokenizer(folder)
