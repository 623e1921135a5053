"""The conversation in the terminal, or one prompt a line from a pipe."""

import contextlib
import sys

from rich.console import Console
from rich.live import Live
from rich.text import Text

from thinksafe_jax.chat.answer_view import NARROWEST, ends_of, plain, side_by_side, styled
from thinksafe_jax.chat.conversation import Answer, Conversation
from thinksafe_jax.chat.student_sides import ChatModel, StudentSides
from thinksafe_jax.errors import InputError, did_you_mean
from thinksafe_jax.terminal import clean, output, print_line

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

    def show(self, conversation: Conversation, question: str) -> None:
        """Asks and prints; a terminal shows the answers while they are being written."""
        console, reasoning = self._console, self._reasoning
        if not console.is_terminal:
            for answer in conversation.ask(question):
                print(plain(answer, reasoning=reasoning), end="\n\n", flush=True)
            return
        beside = len(conversation.sides) > 1 and console.width >= NARROWEST
        answers: list[Answer] = []
        with Live(Text("answering …", style="dim"), console=console, transient=True) as live:

            def watch(answer: Answer) -> None:
                written = [*answers, answer]
                live.update(ends_of(written, console, reasoning=reasoning, beside=beside))

            for answer in conversation.ask(question, watch):
                answers.append(answer)
                if not beside:  # above what is being written
                    console.print(Text(f"{answer.side}:", style="bold"))
                    console.print(styled(answer, reasoning=reasoning), end="\n\n")
                    live.update(Text("answering …", style="dim"))
        if beside:
            console.print(side_by_side(answers, reasoning=reasoning))


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
                view.show(conversation, line)
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
            view.show(conversation, prompt)
            conversation.reset()
