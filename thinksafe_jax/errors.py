"""The errors a user meets. Each class fixes the process's exit code; the message names the fix."""

import difflib
from collections.abc import Iterable

_LONGEST = 300  # characters of a line: some errors hold all that could not be read


class ThinkSafeError(Exception):
    """Base of every error that is shown to the user as one plain message, without a traceback."""

    exit_code = 1


class ConfigError(ThinkSafeError):
    """Wrong usage or configuration: unknown key, wrong type, a value out of its range."""

    exit_code = 2


class InUse(ConfigError):
    """Another process works in the run directory."""


class InputError(ThinkSafeError):
    """Bad input or a bad artefact: prompt files, rows, checkpoints, adapters."""

    exit_code = 3


class EnvironmentFault(ThinkSafeError):
    """The machine or its storage: read-only or full disk, missing device, missing extra."""

    exit_code = 4


class MissingRequirement(EnvironmentFault):
    """What must be installed, accepted or logged in to first: starting again does not help.

    Its text begins with "missing:", by which scripts that start again know it.
    """

    def __str__(self) -> str:
        return f"missing: {super().__str__()}"


class RetryLater(ThinkSafeError):
    """The same command may well succeed later: a preempted host, a stuck peer."""

    exit_code = 75


class Terminated(ThinkSafeError):
    """SIGTERM or Ctrl-C arrived; the unit of work in progress was saved first."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by signal {signum}; run the same command again to resume")
        self.signum, self.exit_code = signum, 128 + signum


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The half sentence "; did you mean X?" for a misspelt name, or "" where nothing looks alike.

    Args:
        cutoff: how alike, from 0 to 1, as in `difflib.get_close_matches`.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def quoted(value: object, most: int = 60) -> str:
    """A value from outside as a message shows it: spelled as in Python, and cut."""
    try:
        return shortened(repr(value), most)
    except (RecursionError, ValueError):  # nested too deeply; a number of thousands of digits
        return f"a {type(value).__name__}"


def shortened(text: str, most: int = 60) -> str:
    """The text, or as much of it as fits into `most` characters with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(names: Iterable[object], most: int = 8) -> str:
    """The first few of many names, each cut where it is long."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(shortened(str(name), 200) for name in names[:most]) + more


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST]


def type_and_line(error: BaseException) -> str:
    """As `first_line`, behind the error's type: "KeyError: 'id'"."""
    return f"{type(error).__name__}: {first_line(error)}"
