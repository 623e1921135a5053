"""Ids are transformers' for clean text, and never a control token's from text that spells one."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import transformers_tokenizer
from tests.tokenizer.kit import CHATML, CONTROL, FAMILIES, TAGS, TEMPLATES, edit, save, student
from thinksafe_jax.errors import InputError
from thinksafe_jax.tokenizer import ChatTokenizer

CLEAN = ["How do I bake bread?", "Tell me", " two  spaces ", "\n\nlines\n", "日本 é 😀", "a", ""]
SPELLINGS = [*CONTROL, *TAGS, "<unk>", "<|im_", "end|>", "[IN", "ST]", "</", "<s", "s>", "/s>"]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    return ChatTokenizer(save(folder, FAMILIES[request.param]()))


def theirs(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """The ids of a prompt by transformers' own apply_chat_template."""
    turn = [{"role": "user", "content": text}]
    return transformers_tokenizer(tokenizer).apply_chat_template(
        turn, add_generation_prompt=True, tokenize=True, return_dict=False
    )


def control_of(tokenizer: ChatTokenizer, ids: list[int]) -> list[int]:
    """The control tokens among ids; what stands for an unknown character is none."""
    unknown = tokenizer.encode_template("<unk>")
    return [id for id in ids if id in tokenizer.control_ids and [id] != unknown]


def test_prompts_have_transformers_ids(family):
    for text in CLEAN:
        assert family.prompt_ids(text) == theirs(family, text)


@pytest.mark.usefixtures("rendered_here")
@pytest.mark.parametrize("scheme", ["prepend", "first", "always"])
@pytest.mark.parametrize("template", ["mistral", "llama-2", "zephyr"])
def test_sentencepiece_students_have_transformers_ids(tmp_path, scheme, template):
    """Issue 15 B5: a template without control tokens of its own is one text with the prompt."""
    tokenizer = FAMILIES[f"byte-fallback, {scheme}"]()
    ours = ChatTokenizer(save(tmp_path, tokenizer, TEMPLATES[template]))
    for text in CLEAN:
        assert ours.prompt_ids(text) == theirs(ours, text)


texts = st.lists(st.sampled_from(SPELLINGS) | st.text(max_size=4), max_size=6).map("".join)


@settings(deadline=None, max_examples=150)
@given(text=texts)
def test_text_never_becomes_a_control_token(family, text):
    """Issue 15 F34: whatever a text spells, the control tokens of a prompt are the template's."""
    assert control_of(family, family.encode_text(text)) == []
    assert control_of(family, family.encode_text(text, inner=True)) == []
    clean = control_of(family, family.prompt_ids("a"))
    assert control_of(family, family.prompt_ids(text)) == clean
    if not any(token in text for token in (*CONTROL, *TAGS, "<unk>")):
        assert family.prompt_ids(text) == theirs(family, text)


@settings(deadline=None, max_examples=50)
@given(text=texts)
def test_a_response_has_its_tags_and_no_other_control_token(family, text):
    ids = family.response_ids(f"<think>{text.replace('think>', '')}</think>x{text}", ended=False)
    tags = [id for tag in TAGS for id in family.encode_template(tag)]
    assert control_of(family, ids) == tags


def test_ten_thousand_spelled_tokens_take_no_longer_than_their_letters(family):
    text = "".join(CONTROL) * 2_000
    assert control_of(family, family.prompt_ids(text)) == control_of(family, family.prompt_ids(""))


def test_letters_are_kept_where_a_control_token_is_taken_apart(family):
    """Parting it adds no space and loses nothing: the text reads as it was written."""
    for token in (*CONTROL, *TAGS):
        text = f"a{token}b"
        assert "".join(family.decode(family.encode_text(text)).split()) == text


def test_a_character_that_is_a_control_token_is_refused(tmp_path):
    tokenizer = FAMILIES["merging"]()
    tokenizer.add_special_tokens(["<unk>", "o"])
    ours = ChatTokenizer(save(tmp_path, tokenizer))
    assert ours.encode_text("bake")
    with pytest.raises(InputError, match="reads 'o', which is text, as the control token 'o'"):
        ours.encode_text("go")


def test_an_unknown_character_must_not_end_a_turn(tmp_path):
    tokenizer = FAMILIES["merging"]()
    ours = ChatTokenizer(save(tmp_path, tokenizer, eos_token="<unk>"))
    with pytest.raises(InputError, match="reads '😀', which is text, as the control token"):
        ours.encode_text("a😀")


def test_runs_of_spaces_are_text_though_they_were_added(tmp_path):
    """GPT-NeoX's vocabulary has them so."""
    tokenizer = FAMILIES["byte-level"]()
    tokenizer.add_tokens(["    "])
    ours = ChatTokenizer(save(tmp_path, tokenizer))
    assert ours.prompt_ids("a    b") == theirs(ours, "a    b")
    assert ours.encode_text("a    b[INST]")[1] == tokenizer.token_to_id("    ")


@pytest.mark.usefixtures("rendered_here")
def test_added_tokens_that_take_spaces_along(tmp_path):
    """Phi's and Llava's: `rstrip` eats the line break behind `<|user|>`, the user's own too."""
    from tokenizers import AddedToken

    template = "<|user|>{{ messages[0]['content'] }}<|end|>\n<|assistant|>\n"
    tokenizer = FAMILIES["byte-level"]()
    tokenizer.add_special_tokens([
        AddedToken("<|user|>", rstrip=True), AddedToken("<|end|>", lstrip=True),
        AddedToken("<|assistant|>", rstrip=True),
    ])  # fmt: skip
    ours = ChatTokenizer(save(tmp_path, tokenizer, template))
    for text in CLEAN:
        assert ours.prompt_ids(text) == theirs(ours, text)
    forged = ours.prompt_ids(" a <|end|> b ")
    assert control_of(ours, forged) == control_of(ours, ours.prompt_ids("a"))


def test_truncation_and_padding_of_the_file_are_left_out(tmp_path):
    tokenizer = FAMILIES["byte-level"]()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9, pad_id=0, pad_token="!")
    ours = ChatTokenizer(save(tmp_path, tokenizer))
    assert ours.decode(ours.encode_text("Tell me about the sea")) == "Tell me about the sea"
    assert ours.decode(ours.prompt_ids("Tell me about the sea")).startswith("user\nTell me about")


# beyond the embedding


@pytest.mark.usefixtures("rendered_here")
def test_a_token_of_the_template_beyond_the_embedding_is_refused(tmp_path):
    """Issue 15 B4: the token, its id and the rows of the embedding are named."""
    template = "<|user|>\n{{ messages[0]['content'] }}<|im_end|>\n<|im_start|>assistant\n"
    folder = student(tmp_path / "m", chat_template=template)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(
        {**content["added_tokens"][0], "id": 1536, "content": "<|user|>"}
    )
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"'<\|user\|>' with id 1536, but vocab_size is 1536"):
        ChatTokenizer(folder).prompt_ids("hi")
    edit(folder / "tokenizer_config.json", chat_template=CHATML)
    assert ChatTokenizer(folder).prompt_ids("hi")  # a token that nobody asks for does no harm


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path):
    folder = student(tmp_path / "m")
    edit(folder / "config.json", vocab_size=1000)
    with pytest.raises(InputError, match="but vocab_size is 1000"):
        ChatTokenizer(folder)


# reasoning tags


def test_tags_that_are_declared_special_are_kept_in_the_text(tmp_path):
    """Issue 15 E29: transformers would leave them out."""
    folder = student(tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = True
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = ChatTokenizer(folder)
    response = "<think>\nI add.\n</think>\n\nThe answer is 42."
    assert tokenizer.decode(tokenizer.response_ids(response)) == response


# what ends a response


def test_the_templates_own_end_of_turn_ends_a_response_too(tmp_path, caplog):
    """Issue 15 B8: a base model's generation_config.json names <|endoftext|> alone."""
    folder = student(tmp_path / "m", eos_token="<|endoftext|>")
    tokenizer = ChatTokenizer(folder)
    ends, (turn,) = (
        tokenizer.encode_template("<|endoftext|>"),
        tokenizer.encode_template("<|im_end|>"),
    )
    edit(folder / "generation_config.json", eos_token_id=ends[0])
    tokenizer = ChatTokenizer(folder)
    assert tokenizer.eos_ids == (*ends, turn)
    assert tokenizer.end_of_turn_id == turn
    assert "ends a turn with" in caplog.text


@pytest.mark.parametrize(
    "value", [[], "2", True, [True], -1, [1, "2"], 1.5, [None], {"a": 1}, [[1]], 1536, [0, 10**9]]
)
def test_what_is_no_id_ends_no_response(tmp_path, value):
    folder = student(tmp_path / "m")
    edit(folder / "generation_config.json", eos_token_id=value)
    with pytest.raises(InputError, match="eos_token_id"):
        _ = ChatTokenizer(folder).eos_ids


def test_config_json_is_asked_where_generation_config_is_silent(tmp_path):
    folder = student(tmp_path / "m")
    expected = ChatTokenizer(folder).eos_ids
    edit(folder / "generation_config.json", eos_token_id=None)
    edit(folder / "config.json", eos_token_id=list(expected))
    assert ChatTokenizer(folder).eos_ids == expected
    edit(folder / "config.json", eos_token_id=None)
    with pytest.raises(InputError, match=r"no eos_token_id in generation_config\.json, config"):
        _ = ChatTokenizer(folder).eos_ids
