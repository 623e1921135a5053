"""What reaches the terminal: one shared console, and no control characters from outside."""

import logging
import re
from functools import cache

from rich.console import Console

# escape sequences whole (CSI, OSC up to its end, two-character ones), then any control left over;
# bidirectional overrides too, which can make a line read as something that it is not
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: object) -> str:
    """Text safe to print: no terminal escapes or control characters, no lone surrogates.

    Newlines and tabs stay. Nothing else that came from a prompt, a model or a file name can move
    the cursor, recolour or retitle the terminal.
    """
    plain = _CONTROLS.sub("", _ESCAPES.sub("", str(text).replace("\r\n", "\n")))
    return plain.encode("utf-8", "replace").decode("utf-8")


@cache
def console() -> Console:
    """The console on stderr that progress bars and log lines share, so that they do not mix."""
    return Console(stderr=True, highlight=False)


def output(width: int) -> Console:
    """A console on stdout for tables.

    Args:
        width: columns where stdout is no terminal; a file has none, and 80 would break intervals.
    """
    found = Console(highlight=False)
    if not found.is_terminal:
        found.width = width
    return found


def print_line(text: object, style: str | None = None) -> None:
    """One cleaned line on stderr; square brackets are text, not markup."""
    console().print(clean(text), style=style, markup=False, soft_wrap=True)


class _CleanHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        print_line(self.format(record), style=style)


def setup_logging() -> None:
    """Send the package's log lines to the console; called once by the command line."""
    logger = logging.getLogger("thinksafe_jax")
    if not logger.handlers:
        logger.addHandler(_CleanHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False
