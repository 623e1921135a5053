"""Where else the numbers of a step go, beside metrics.jsonl: one file for each tracker.

Every file defines TRACKER, made with the run directory. The packages are extras.
"""

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from thinksafe_jax.errors import MissingRequirement
from thinksafe_jax.variants import Variants


class Tracker(Protocol):
    """Takes the numbers of a run's steps.

    Attributes:
        package: the module of the optional package that it needs.
    """

    package: ClassVar[str]

    def __init__(self, run_dir: Path): ...

    def log(self, step: int, values: dict[str, float]) -> None:
        """Takes the numbers of one step."""

    def close(self) -> None:
        """Writes what is still held back."""


TRACKERS: Variants[type[Tracker]] = Variants(__name__, "TRACKER", "tracker")


def require_trackers(names: Sequence[str]) -> None:
    """Looks for the packages of the trackers that a recipe names; none is opened.

    Raises:
        MissingRequirement: the package of one is not installed.
    """
    for name in names:
        import_extra(TRACKERS[name].package, name)


@contextmanager
def tracking(names: Sequence[str], run_dir: Path) -> Iterator[list[Tracker]]:
    """The trackers that a recipe names, closed at the end.

    Raises:
        MissingRequirement: the package of one is not installed.
    """
    with ExitStack() as stack:
        trackers = [TRACKERS[name](run_dir) for name in names]
        for tracker in trackers:
            stack.callback(tracker.close)
        yield trackers


def track(trackers: Sequence[Tracker], line: dict[str, Any]) -> None:
    """Gives a line of metrics to every tracker: its finite numbers."""
    values = {
        name: float(value)
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }
    for tracker in trackers:
        tracker.log(line["step"], values)


def import_extra(module: str, extra: str) -> ModuleType:
    """A module of an optional package.

    Args:
        module: to import.
        extra: of thinksafe-jax, which installs it; also the tracker's name.

    Raises:
        MissingRequirement: it is not installed; says how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingRequirement(
            f"training.trackers names {extra}, but {module} is not installed: "
            f"pip install 'thinksafe-jax[{extra}]'"
        ) from None
