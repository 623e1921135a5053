"""Faults that are collected instead of ending with the first, and told together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from thinksafe_jax.errors import (
    ConfigError,
    EnvironmentFault,
    InputError,
    MissingRequirement,
    RetryLater,
    Terminated,
    ThinkSafeError,
)
from thinksafe_jax.hosts import Group

# in the order in which they decide how the process ends: what does not pass by itself comes first
_KINDS: dict[str, type[ThinkSafeError]] = {
    kind.__name__: kind
    for kind in (ConfigError, InputError, MissingRequirement, EnvironmentFault, RetryLater)
}


class FaultList:
    """What is wrong with a run, each fault with the key of the recipe that it belongs to."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []  # (kind, text)

    @contextmanager
    def under(self, key: str = "") -> Iterator[None]:
        """Notes the error that ends the block, and goes on behind it."""
        try:
            yield
        except Terminated:
            raise
        except ThinkSafeError as error:
            self.note(error, key)

    def note(self, error: ThinkSafeError, key: str = "") -> None:
        """Adds a fault; what its section says first itself is not said twice."""
        kind = next(name for name, kind in _KINDS.items() if isinstance(error, kind))
        text = error.args[0] if error.args else type(error).__name__
        self._add(kind, text if not key or text.startswith(key) else f"{key}: {text}")

    def extend(self, other: "FaultList") -> None:
        """Takes over the faults of another list."""
        for kind, text in other.faults:
            self._add(kind, text)

    def concern(self, key: str) -> bool:
        """Whether a fault of this section of the recipe was noted."""
        return any(text.startswith(key) for _, text in self.faults)

    def _add(self, kind: str, text: str) -> None:
        if (kind, text) not in self.faults:
            self.faults.append((kind, text))

    def gather(self, group: Group, name: str) -> None:
        """Puts the faults of all processes together; a fault that not all have names its hosts."""
        every = [[tuple(fault) for fault in faults] for faults in group.gather(name, self.faults)]
        self.faults = []
        for kind, text in dict.fromkeys(fault for faults in every for fault in faults):
            hosts = [i for i, faults in enumerate(every) if (kind, text) in faults]
            who = "" if len(hosts) == len(every) else ", ".join(map(group.describe, hosts)) + ": "
            self._add(kind, who + text)

    def errors(self) -> list[ThinkSafeError]:
        """The faults, each alone."""
        return [_KINDS[kind](text) for kind, text in self.faults]

    def refuse(self) -> None:
        """Ends a start that lacks something.

        Raises:
            ThinkSafeError: all faults in one message; the exit code is that of the fault which is
                least likely to pass by itself.
        """
        kinds = {kind for kind, _ in self.faults}
        for name, gravest in _KINDS.items():
            if name in kinds:
                raise gravest(_together([text for _, text in self.faults]))


def _together(texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    indented = [text.replace("\n", "\n    ") for text in texts]
    head = f"{len(texts)} problems; nothing was started"
    return "\n  ".join([head, *indented])
