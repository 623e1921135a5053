"""Answers as they are shown: side by side in a terminal, one below the other elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from thinksafe_jax.chat.conversation import Answer
from thinksafe_jax.terminal import clean
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN

NARROWEST = 80  # columns in which two answers have room beside each other


def side_by_side(answers: Sequence[Answer], *, reasoning: bool) -> Table:
    """A column for each side; print it with a rich console.

    Args:
        reasoning: show it, dim; else its length alone.
    """
    table = Table(expand=True)
    for answer in answers:
        table.add_column(answer.side, ratio=1, overflow="fold")
    table.add_row(*(styled(answer, reasoning=reasoning) for answer in answers))
    return table


def ends_of(
    answers: Sequence[Answer], console: Console, *, reasoning: bool, beside: bool
) -> RenderableType:
    """Answers that are being written: of each its last lines, as many as the terminal shows.

    Args:
        beside: a column for each, else the newest alone.
    """
    shown = answers if beside else answers[-1:]
    width = console.width // len(shown) - 4  # without the table's lines
    ends = []
    for answer in shown:
        lines = styled(answer, reasoning=reasoning).wrap(console, width)
        ends.append(Text("\n").join(lines[-max(1, console.height - 6) :]))
    if not beside:
        return Group(Text(f"{shown[0].side}:", style="bold"), *ends)
    table = Table(*(answer.side for answer in shown), expand=True)
    table.add_row(*ends)
    return table


def styled(answer: Answer, *, reasoning: bool) -> Text:
    """The answer; reasoning and remarks dim."""
    parts = [Text(text, style=style) for text, style in _parts(answer, reasoning)]
    return Text("\n\n").join(parts)


def plain(answer: Answer, *, reasoning: bool) -> str:
    """The answer below its side's name, for a file or another program: reasoning has its tags."""
    if reasoning and answer.reasoning:
        tagged = f"{THINK_OPEN}\n{answer.reasoning}\n{THINK_CLOSE}"
        answer = replace(answer, reasoning=tagged)
    return "\n\n".join([f"{answer.side}:", *(text for text, _ in _parts(answer, reasoning))])


def _parts(answer: Answer, reasoning: bool) -> Iterator[tuple[str, str]]:
    """(text, style) of what is shown, free of control characters."""
    if answer.reasoning and reasoning:
        yield clean(answer.reasoning), "dim"
    elif answer.reasoning:
        yield f"({len(answer.reasoning.split()):,} words of reasoning)", "dim"
    if answer.text:
        yield clean(answer.text), ""
    if answer.cut:
        yield f"(cut at {answer.tokens:,} tokens; --max-new-tokens allows more)", "dim"
    elif not answer.text and answer.finished:
        yield "(no answer)", "dim"
