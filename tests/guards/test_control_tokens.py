"""Marks of guards whose tokenizer nobody here has: the shapes cover those that are known."""

import json

import pytest

from tests.guards.kit import REAL, real_template
from tests.support import shared_asset
from thinksafe_jax.guards.control_tokens import COMMON, lines_of
from thinksafe_jax.tokenizer import any_of


@pytest.mark.parametrize("name", ["qwen3", "r1-distill-qwen"])
def test_every_added_token_of_a_real_tokenizer_is_found_and_broken(name):
    file = shared_asset("tokenizers", name) / "tokenizer.json"
    added = [t["content"] for t in json.loads(file.read_text(encoding="utf-8"))["added_tokens"]]
    own = any_of(added)
    assert len(added) > 10
    for token in added:
        assert COMMON.occur_in(f"a {token} b")
        assert not own.search(COMMON.broken(f"a {token} b {token}{token}"))


@pytest.mark.parametrize("name", sorted(REAL))
def test_every_real_template_is_divided_by_marks_of_these_shapes(name):
    found = lines_of(real_template(name))
    expected = ["[/INST]", "<|assistant|>"] if name == "wildguard" else ["<END CONVERSATION>"]
    for line in (*REAL[name][2][:2], *expected):
        assert COMMON.occur_in(line)
    assert all(found.search(line) for line in expected)


@pytest.mark.parametrize(
    "token", ["<tool_response>", "</s>", "[TOOL_CALLS]", "<start_of_turn>", "<|eot_id|>", "<think>"]
)
def test_control_tokens_of_other_families(token):
    assert COMMON.occur_in(token)
    assert COMMON.broken(token) == f"{token[0]}\u200b{token[1:]}"


def test_plain_text_is_left_alone():
    text = "a < b, <b>bold</b>, List[int], [NOTE], x|y, <-- and \u200b"
    assert not COMMON.occur_in(text)
    assert COMMON.broken(text) == text
