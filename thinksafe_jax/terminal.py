"""What reaches the terminal: one shared console, and no control characters from outside."""

import logging
import re
import time
from functools import cache
from typing import Any

from rich import progress as rich_progress
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
def stderr_console() -> Console:
    """The console on stderr that progress bars and log lines share, so that they do not mix."""
    return Console(stderr=True, highlight=False)


def output(width: int) -> Console:
    """A console on stdout for tables.

    Args:
        width: columns where stdout is no terminal; a file has none, and 80 would break intervals.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = width
    return console


def print_line(text: object, style: str | None = None) -> None:
    """One cleaned line on stderr; square brackets are text, not markup."""
    stderr_console().print(clean(text), style=style, markup=False, soft_wrap=True)


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


INTERVAL = 30.0  # seconds between plain lines


class Progress:
    """Counts units of work within a `with` block.

    Args:
        description: what is being done, as "sample"; cleaned of control characters.
        total: units expected, or None where unknown.
        start: units done before this start (a resumed stage).
        unit: their name in plain lines.
        console: where to write; default the console on stderr shared with the log.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        start: int = 0,
        unit: str = "rows",
        console: Console | None = None,
    ):
        self.description, self.unit = clean(description), unit
        self.total, self.done, self._start = total, start, start
        self._first: tuple[float, int] | None = None  # when the first units were done, and which
        self._console = console or stderr_console()
        self._facts: dict[str, Any] = {}
        self._bar: rich_progress.Progress | None = None

    def __enter__(self) -> "Progress":
        self._began = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn("{task.fields[facts]}", markup=False),
                console=self._console,
            )
            self._task = self._bar.add_task(
                self.description, total=self.total, completed=self.done, facts=""
            )
            self._bar.start()
        return self

    def advance(self, units: int = 1, **facts: Any) -> None:
        """Count units, with figures to show beside them, as `advance(8, loss=1.2)`."""
        self.done += units
        self._first = self._first or (time.monotonic(), self.done)
        self._facts |= facts
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, facts=self._shown_facts())
        elif time.monotonic() - self._last_line >= INTERVAL:
            self._line("")

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._line(" (stopped)" if error else " (done)")

    def _line(self, ending: str) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._began
        of = "" if self.total is None else f"/{self.total}"
        rate = (self.done - self._start) / seconds if seconds > 0 else 0.0
        parts = [f"{self.done}{of} {self.unit}", f"{seconds:.0f} s", f"{rate:.3g}/s"]
        if not ending and (left := self._seconds_left()) is not None:
            parts.append(f"{left:.0f} s left")
        if facts := self._shown_facts():
            parts.append(facts)
        text = f"{self.description}: {', '.join(parts)}{ending}"
        self._console.print(text, markup=False, soft_wrap=True)

    def _seconds_left(self) -> float | None:
        """By the pace since the first units, before which all was compiled; None if unknown."""
        if self.total is None or self._first is None or self.done >= self.total:
            return None
        since, done = self._first
        pace = (time.monotonic() - since) / (self.done - done) if self.done > done else None
        return pace and (self.total - self.done) * pace

    def _shown_facts(self) -> str:
        return ", ".join(f"{_word(k)} {_shown(v)}" for k, v in self._facts.items())


def _word(name: str) -> str:
    return name.replace("_per_s", "/s").replace("_", " ")


def _shown(value: Any) -> str:
    return _number(value) if isinstance(value, float) else clean(value).replace("\n", " ")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
