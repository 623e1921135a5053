"""A conversation of two sides: what each is asked, what of it is kept, how it is shown."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from thinksafe_jax.chat import chat_loop
from thinksafe_jax.chat.answer_view import ends_of, plain, side_by_side, styled
from thinksafe_jax.chat.chat_loop import _talk, _View
from thinksafe_jax.chat.conversation import Answer, Conversation, taken_apart
from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import InputError

THOUGHT = "<think>\nHm.\n</think>\n\n"


class Echo:
    """Two students who repeat what they hear; the conversation's tests need no model."""

    names = ("before", "after")

    def __init__(self):
        self.heard = []

    def answer(self, side, messages, sampling, turn, watch=None):
        self.heard.append((side, [dict(m) for m in messages], turn))
        question = messages[-1]["content"]
        if question == "too long":
            raise InputError("the conversation is too long")
        text = "<think>\nI never" if question == "endless" else f"{THOUGHT}{side}: {question}"
        for end in (len(text) // 2, len(text)) if watch else ():
            watch(text[:end], end)
        reason = "length" if question == "endless" else "stop"
        return text, SimpleNamespace(token_ids=[1, 2, 3], finish_reason=reason)


@pytest.fixture
def students():
    return Echo()


def test_each_side_goes_on_from_its_own_answers_without_the_reasoning(students):
    talk = Conversation(students, SamplingConfig(), "Be brief.")
    assert [a.text for a in talk.ask("one")] == ["before: one", "after: one"]
    list(talk.ask("two"))
    side, messages, turn = students.heard[-1]
    assert (side, turn) == ("after", "turn 2")
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "after: one"},
        {"role": "user", "content": "two"},
    ]
    talk.reset()
    list(talk.ask("one"))
    assert students.heard[-1][1:] == (
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}],
        "turn 3",
    )


@pytest.mark.parametrize("question", ["endless", "too long"])
def test_a_turn_without_an_answer_is_no_part_of_the_conversation(students, question):
    talk = Conversation(students, SamplingConfig())
    try:
        list(talk.ask(question))
    except InputError:
        assert question == "too long"
    list(talk.ask("one"))
    assert students.heard[-1][1] == [{"role": "user", "content": "one"}]


@pytest.mark.parametrize(
    ("response", "reasoning", "text"),
    [
        (f"{THOUGHT}Yes.", "Hm.", "Yes."),
        ("<think>\nIt never ends", "It never ends", ""),
        ("No reasoning at all.", "", "No reasoning at all."),
        ("", "", ""),
        ("Opened by the template.\n</think>\nYes.", "Opened by the template.", "Yes."),
    ],
)
def test_reasoning_and_answer_are_told_apart(response, reasoning, text):
    answer = taken_apart("after", response, 9, False)
    assert (answer.reasoning, answer.text) == (reasoning, text)


def test_in_a_terminal_answers_stand_beside_each_other_and_reasoning_is_dim():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system="standard")
    answers = [Answer("before", "Hm.", "Sure.", 5, False), Answer("after", "No.", "I can't.", 5, 0)]
    console.print(side_by_side(answers, reasoning=True))
    shown = console.file.getvalue()
    row = next(line for line in shown.splitlines() if "Sure." in line)
    assert "I can't." in row
    assert "\x1b[2mHm." in shown
    assert max(map(len, shown.splitlines()[:1])) <= 100


def test_reasoning_can_be_folded_and_what_was_cut_says_so():
    answer = Answer("after", "one two three", "Yes", 7, cut=True)
    assert styled(answer, reasoning=False).plain.split("\n\n") == [
        "(3 words of reasoning)",
        "Yes",
        "(cut at 7 tokens; --max-new-tokens allows more)",
    ]
    assert plain(answer, reasoning=True).startswith("after:\n\n<think>\none two three\n</think>")
    assert "(no answer)" in plain(Answer("after", "", "", 1, False), reasoning=True)


def test_no_answer_reaches_the_terminal_with_control_characters():
    answer = Answer("after", "\x1b]0;title\x07think", "\x1b[31mred\u202e", 3, False)
    for text in (plain(answer, reasoning=True), styled(answer, reasoning=True).plain):
        assert "\x1b" not in text and "\u202e" not in text and "title" not in text
        assert "red" in text and "think" in text


def test_commands_of_the_conversation(students, monkeypatch, capsys):
    lines = iter(["one", "/rest", "", "/help", "too long", "/etc/hosts is what?", "/reset", "two"])

    def typed(_prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    talk = Conversation(students, SamplingConfig())
    said = []
    monkeypatch.setattr(chat_loop, "print_line", lambda text, style=None: said.append(str(text)))
    _talk(talk, _View(Console(file=io.StringIO()), reasoning=False))
    assert "/rest is no command; did you mean /reset?" in said
    assert "the conversation is too long" in said
    assert "a new conversation" in said
    assert any("/quit  end" in text for text in said)
    asked = [messages[-1]["content"] for side, messages, _ in students.heard if side == "before"]
    assert asked == ["one", "too long", "/etc/hosts is what?", "two"]
    assert len(students.heard[-1][1]) == 1  # after /reset
    assert "before:\n\n(1 words of reasoning)\n\nbefore: one" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 100])
def test_a_terminal_shows_answers_while_they_are_written(students, width):
    """Half of an answer first; what was shown on the way is wiped by the whole answers."""
    seen = []
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20)
    talk = Conversation(students, SamplingConfig())
    _View(console, reasoning=True).show(talk, "one")
    printed = console.file.getvalue()
    assert "before: one" in printed and "after: one" in printed
    list(talk.ask("two", lambda answer: seen.append((answer.side, answer.text, answer.finished))))
    assert seen == [
        ("before", "", False), ("before", "before: two", False),
        ("after", "", False), ("after", "after: two", False),
    ]  # fmt: skip


@pytest.mark.parametrize("beside", [True, False])
def test_of_a_long_answer_the_end_is_shown(beside):
    console = Console(file=io.StringIO(), width=80, height=16)
    lines = "\n".join(f"line {n}." for n in range(100))
    answers = [Answer("before", "", "Yes.", 1, False), Answer("after", "", lines, 9, False, False)]
    console.print(ends_of(answers, console, reasoning=True, beside=beside))
    shown = console.file.getvalue()
    assert "line 99." in shown and "line 50." not in shown
    assert ("Yes." in shown) == beside
    assert len(shown.splitlines()) <= console.height
