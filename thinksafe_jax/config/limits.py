"""What a value may be. `recipe` writes these beside each field: `Annotated[int, COUNT]`.

Types cannot see that NaN is no temperature and `palas` no attention. A limit has one method: it
says in half a sentence what is wrong with a value, or nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints

from thinksafe_jax.config.shipped import named_configs
from thinksafe_jax.errors import ConfigError, did_you_mean, quoted

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
        if not isinstance(value, Real) or not math.isfinite(value):
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


def check_limits(section: Any, key: str) -> None:
    """Check a part of a recipe that was built in code, as a `SamplingConfig`.

    Args:
        key: what the part is called in messages.

    Raises:
        ConfigError: with every value that is out of its range.
    """
    if problems := list(limit_problems(type(section), section, key)):
        raise ConfigError("; ".join(problems))


def limit_problems(hint: Any, value: Any, key: str) -> Iterator[str]:
    """One sentence for each value, and all that is in it, that the limit in its type hint excludes.

    Args:
        hint: `Annotated[int, COUNT]`, or a dataclass whose fields have such hints.
        key: of the value, with dots; "" of a whole recipe.
    """
    if get_origin(hint) is Annotated:
        hint, *limits = get_args(hint)
        texts = [limit.problem(value) for limit in limits if value is not None]
        if hint is int and isinstance(value, Real) and not isinstance(value, Integral):
            texts = [f"is {quoted(value)}; expected a whole number"]
        yield from (f"{key}: {text}" for text in texts if text)
    if is_dataclass(value):
        for name, field_hint in _hints(type(value)).items():
            field_key = f"{key}.{name}" if key else name
            yield from limit_problems(field_hint, getattr(value, name), field_key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from limit_problems(get_args(hint)[0], item, f"{key}[{i}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from limit_problems(get_args(hint)[1], item, f"{key}.{name}")


@cache
def _hints(section: type) -> dict[str, Any]:
    return get_type_hints(section, include_extras=True)
