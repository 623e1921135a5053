"""The conversation in the terminal, or one prompt a line from a pipe."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console

from thinksafe_jax.chat.answer_view import NARROWEST, plain, side_by_side, styled
from thinksafe_jax.chat.conversation import Answer, Conversation
from thinksafe_jax.chat.student_sides import ChatModel, StudentSides
from thinksafe_jax.errors import InputError, did_you_mean
from thinksafe_jax.terminal import clean, output, print_line, stderr_console

COMMANDS = {
    "/reset": "begin a new conversation",
    "/quit": "end; so does Ctrl-D",
    "/help": "this list",
}


def chat(
    model: ChatModel, *, context: int | None = None, system: str = "", reasoning: bool = True
) -> None:
    """Ask before and after, turn by turn, until /quit or the end of the input.

    In a terminal the conversation goes on from turn to turn. From a pipe each line is a prompt of
    its own, answered in order.

    Args:
        context: see `StudentSides`.
        system: a system prompt; "" is none.
        reasoning: show it.

    Raises:
        ConfigError, InputError, EnvironmentFault: model, mesh or adapter cannot be used; from a
            pipe also a prompt that is too long.
    """
    for stream in (sys.stdin, sys.stdout):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # what is no UTF-8 is no reason to end
    conversation = Conversation(StudentSides(model, context), model.sampling, system)
    view = _View(output(100), reasoning)
    if sys.stdin.isatty():
        _talk(conversation, view)
    else:
        _answer_lines(conversation, view)


class _View:
    """Prints the answers of a turn.

    Args:
        console: of stdout; answers stand beside each other in a terminal that has room for them.
        reasoning: show it.
    """

    def __init__(self, console: Console, reasoning: bool):
        self._console, self._reasoning = console, reasoning

    def show(self, answers: Iterator[Answer], sides: int) -> None:
        console, reasoning = self._console, self._reasoning
        if not console.is_terminal:
            for answer in answers:
                print(plain(answer, reasoning=reasoning), end="\n\n", flush=True)
        elif sides > 1 and console.width >= NARROWEST:
            console.print(side_by_side(list(_awaited(answers)), reasoning=reasoning))
        else:
            for answer in _awaited(answers):
                console.print(f"[bold]{answer.side}:[/]")
                console.print(styled(answer, reasoning=reasoning), end="\n\n")


def _awaited(answers: Iterator[Answer]) -> Iterator[Answer]:
    """The answers; while one is on its way, the terminal says so."""
    while True:
        with stderr_console().status("answering …"):
            answer = next(answers, None)
        if answer is None:
            return
        yield answer


def _talk(conversation: Conversation, view: _View) -> None:
    """Turn by turn; what goes wrong in one turn ends that turn."""
    with contextlib.suppress(ImportError):  # lines are edited and remembered where it is there
        import readline  # noqa: F401
    print_line("a question, or " + ", ".join(f"{name} ({what})" for name, what in COMMANDS.items()))
    while (line := _line()) != "/quit":
        if line == "/reset":
            conversation.reset()
            print_line("a new conversation")
        elif line == "/help":
            print_line("\n".join(f"{name}  {what}" for name, what in COMMANDS.items()))
        elif line.startswith("/") and len(line.split()) == 1:
            print_line(f"{line} is no command{did_you_mean(line, COMMANDS)}", style="yellow")
        elif line:
            try:
                view.show(conversation.ask(line), len(conversation.sides))
            except InputError as error:
                print_line(error, style="yellow")


def _line() -> str:
    """The next line without its margins; /quit at the end of the input."""
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return "/quit"


def _answer_lines(conversation: Conversation, view: _View) -> None:
    for line in sys.stdin:
        if prompt := line.strip():
            print(f"> {clean(prompt)}", end="\n\n", flush=True)
            view.show(conversation.ask(prompt), len(conversation.sides))
            conversation.reset()
