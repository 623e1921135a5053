"""How far a stage is: a live bar on a terminal, a plain line now and then in a log file."""

import time
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

from thinksafe_jax.runs import terminal

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
        self.description, self.unit = terminal.clean(description), unit
        self.total, self.done, self._start = total, start, start
        self._console = console or terminal.console()
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
        if self.total is not None and self.done < self.total and rate > 0 and not ending:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        if facts := self._shown_facts():
            parts.append(facts)
        text = f"{self.description}: {', '.join(parts)}{ending}"
        self._console.print(text, markup=False, soft_wrap=True)

    def _shown_facts(self) -> str:
        return ", ".join(f"{k} {_shown(v)}" for k, v in self._facts.items())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else terminal.clean(value).replace("\n", " ")
