"""What a value may be. `recipe` writes these beside each field: `Annotated[int, COUNT]`.

Types cannot see that NaN is no temperature and `palas` no attention. A limit has one method: it
says in half a sentence what is wrong with a value, or nothing.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from thinksafe_jax.config.shipped import named_configs
from thinksafe_jax.errors import did_you_mean, quoted

LARGEST = 2**31 - 1  # sizes and counts become int32 on the device


class Limit(Protocol):
    """What a field's value may be; `str` of it is for messages and help texts."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, as "is 3; expected ..."; None where nothing is."""
        ...


@dataclass(frozen=True)
class Range:
    """Numbers between two ends; `open_low`, `open_high` exclude the end itself."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def problem(self, value: float) -> str | None:
        if not math.isfinite(value):
            return f"is {quoted(value)}; expected {self}"
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return None if above and below else f"is {quoted(value)}; expected {self}"

    def __str__(self) -> str:
        low = f"{'>' if self.open_low else '>='} {self.low:g}"
        if self.high == math.inf:
            return f"a finite number {low}"
        high = f"{'<' if self.open_high else '<='} {self.high:.10g}"
        return f"a number {low} and {high}"


@dataclass(frozen=True)
class OneOf:
    """One of a few names; the nearest is suggested."""

    names: tuple[str, ...]

    def problem(self, value: str) -> str | None:
        if value in self.names:
            return None
        return f"is {quoted(value)}; expected {self}{did_you_mean(value, self.names)}"

    def __str__(self) -> str:
        return f"one of {', '.join(name for name in self.names if name)}"


def choice(*names: str) -> OneOf:
    """One of these names. Where each is a file that names itself, they are `variant_names(...)`."""
    return OneOf(names)


@dataclass(frozen=True)
class VariantOrText(OneOf):
    """A variant, or a text of the user's own around its `{prompt}`."""

    def problem(self, value: str) -> str | None:
        if value.count("{prompt}") == 1:
            return None
        text = super().problem(value)
        return text and f"{text} (or a text of your own with {{prompt}} in it once)"


@dataclass(frozen=True)
class ConfigName:
    """A YAML file, or the name of one in a folder of configs/.

    A file that is missing is said when it is read: a report of a run needs no mesh.
    """

    kind: str  # one of shipped.KINDS

    def problem(self, value: str) -> str | None:
        names = named_configs(self.kind)
        if Path(value).suffix or value.lower() in names or Path(value).is_file():
            return None
        return f"is {quoted(value)}; expected {self}{did_you_mean(value.lower(), names)}"

    def __str__(self) -> str:
        return f"a file, or a name in configs/{self.kind}: {', '.join(named_configs(self.kind))}"


@dataclass(frozen=True)
class EachOnce:
    """A list that names at least one thing, and nothing twice."""

    what: str  # "name"

    def problem(self, value: list[str]) -> str | None:
        if value and len(set(value)) == len(value):
            return None
        return f"is {quoted(value)}; expected {self}"

    def __str__(self) -> str:
        return f"one {self.what} or more, each once"


@dataclass(frozen=True)
class Holds:
    """A text with a placeholder in it."""

    placeholder: str
    meaning: str

    def problem(self, value: str) -> str | None:
        return None if self.placeholder in value else f"has no {self}"

    def __str__(self) -> str:
        return f"{self.placeholder}, {self.meaning}"


@dataclass(frozen=True)
class FolderName:
    """The name of one folder, which cannot lead to another place: `runs/<name>`."""

    def problem(self, value: str) -> str | None:
        sound = value not in (".", "..") and not set(value) & {"/", "\\"} and value.isprintable()
        return None if sound and len(value) <= 200 else f"is {quoted(value)}; expected {self}"

    def __str__(self) -> str:
        return "the name of one folder: no slash or control character, 200 characters at most"


COUNT = Range(1, LARGEST)
INDEX = Range(0, LARGEST)
SHARE = Range(0, 1)
POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)
