"""A chat template is copied around the turns only if it leaves what is in them alone."""

import pytest

from tests.support import transformers_tokenizer
from tests.tokenizer.kit import FAMILIES, save, student
from thinksafe_jax.errors import InputError
from thinksafe_jax.tokenizer import ChatTokenizer

TURN = "<|im_start|>user\n{{ %s }}<|im_end|>\n<|im_start|>assistant\n"
CONTENT = "messages[0]['content']"


@pytest.mark.usefixtures("rendered_here")
@pytest.mark.parametrize(
    ("filter", "kept"),
    [
        ("", " \n a b \u2003\n"),
        (" | trim", "a b"),
        (".strip()", "a b"),
        (".lstrip()", "a b \u2003\n"),
        (".rstrip()", " \n a b"),
    ],
)
def test_a_template_that_trims_trims_here(tmp_path, filter, kept):
    tokenizer = ChatTokenizer(save(tmp_path, FAMILIES["byte-level"](), TURN % (CONTENT + filter)))
    ids = tokenizer.prompt_ids(" \n a b \u2003\n")
    assert tokenizer.decode(ids) == f"user\n{kept}\nassistant"
    theirs = transformers_tokenizer(tokenizer).apply_chat_template(
        [{"role": "user", "content": " \n a b \u2003\n"}],
        add_generation_prompt=True, tokenize=True, return_dict=False,
    )  # fmt: skip
    assert ids == theirs


@pytest.mark.usefixtures("rendered_here")
@pytest.mark.parametrize(
    "filter",
    [
        " | upper", " | lower", " | e", " | tojson", "[:100]", ".replace('\n', ' ')", " | title",
        " | replace('  ', ' ')", ".split('</think>')[-1]", " | truncate(50)", " | wordwrap(40)",
        ".strip('\n')", ".replace('\u200b', '')", " | string | striptags", ".rstrip(' ')",
    ],
)  # fmt: skip
def test_a_template_that_changes_a_turn_is_refused(tmp_path, filter):
    """Issue 15 B6: prompts would silently not be what their files say."""
    tokenizer = ChatTokenizer(student(tmp_path / "m", chat_template=TURN % (CONTENT + filter)))
    reasons = r"white space off the ends|changes what is in a turn|shows turn 1 0 times"
    with pytest.raises(InputError, match=reasons):
        tokenizer.prompt_ids("hi")


@pytest.mark.usefixtures("rendered_here")
@pytest.mark.parametrize("shown", ["'nothing'", f"{CONTENT} + {CONTENT}", f"{CONTENT} | reverse"])
def test_a_turn_stands_there_once(tmp_path, shown):
    tokenizer = ChatTokenizer(student(tmp_path / "m", chat_template=TURN % shown))
    with pytest.raises(InputError, match=r"shows turn 1 \d times"):
        tokenizer.prompt_ids("hi")


def test_todays_date_is_pinned_and_said(tmp_path, caplog):
    """Issue 15 B9: a run that is resumed tomorrow asks the same."""
    template = "Today is {{ strftime_now('%d %b %Y') }}.\n" + TURN % CONTENT
    tokenizer = ChatTokenizer(student(tmp_path / "m", chat_template=template))
    with caplog.at_level("INFO"):
        assert tokenizer.decode(tokenizer.prompt_ids("hi")).startswith("Today is 26 Jul 2024.\n")
    assert "it is 26 July 2024 in every prompt" in caplog.text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }", "the chat template fails"),
        ("{{ raise_exception('a system turn must come first') }}", "a system turn must come first"),
        ("{% for i in range(10**9) %}{% endfor %}", "the chat template fails"),
        ("{{ 'x' * 10**12 }}", "the chat template fails"),
        ("{{ 'x' * 2000000 }}" + TURN % CONTENT, "at most 1,048,576"),
        (None, "no chat template"),
        ("", "no chat template"),
    ],
)
def test_a_template_that_fails_is_a_sentence(tmp_path, template, message):
    tokenizer = ChatTokenizer(student(tmp_path / "m", chat_template=template))
    with pytest.raises(InputError, match=message) as caught:
        tokenizer.prompt_ids("hi")
    assert str(tokenizer.directory) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
