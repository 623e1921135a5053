"""Plain mappings to dataclasses, without guessing: no key is ignored, no value is converted.

OmegaConf's structured configs stop at the first error and turn 5 into "5"; here all problems of a
recipe are collected, so that one reading of the message is enough to repair it.
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from thinksafe_jax.errors import quoted, shortened

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_UNUSABLE = object()  # a value with a problem; the field keeps its default


def build(cls: type, value: Any, root: type | None = None) -> tuple[Any, list[str]]:
    """An instance of a dataclass tree from nested mappings and lists, and what is wrong with them.

    Args:
        cls: the dataclass to build.
        value: nested dicts, lists and scalars as YAML gives them; an empty section means defaults.
        root: the tree whose keys are suggested for unknown ones; default `cls`.

    Returns:
        The instance (defaults where a value was unusable) and one sentence per problem.
    """
    problems: list[str] = []
    known = list(dotted_keys(root or cls))
    return _section(cls, value, "", known, problems), problems


def dotted_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Every valid key of a dataclass tree; items of a list of sections are written `key[0].sub`."""
    for name, hint in get_type_hints(cls).items():
        key = f"{prefix}{name}"
        yield key
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from dotted_keys(hint, f"{key}.")
        elif get_origin(hint) is list and dataclasses.is_dataclass(get_args(hint)[0]):
            yield from dotted_keys(get_args(hint)[0], f"{key}[0].")


def _nearest(key: str, known: list[str]) -> str:
    """The valid key a misspelt one most likely means.

    A key of the same name further inside the section wins, then a sibling that looks alike, then a
    key of the same name in another section, then whatever looks most alike as a whole.
    """
    written, _, leaf = key.rpartition(".")
    section = re.sub(r"\[\d+\]", "[0]", written)
    siblings = [k for k in known if k.rpartition(".")[0] == section]
    key = f"{section}.{leaf}"
    alike = difflib.get_close_matches(key, siblings, n=1, cutoff=0.75)
    same_leaf = [k for k in known if k.rpartition(".")[2] == leaf]
    within = [k for k in same_leaf if k.startswith(f"{section}.")]  # one level too high
    pool = within or alike or same_leaf or siblings + known
    best = difflib.get_close_matches(key, pool, n=1, cutoff=0.0)[0]
    return best.replace(section, written, 1) if section else best


def _section(cls: type, value: Any, key: str, known: list[str], problems: list[str]) -> Any:
    if value is None:  # `training:` with nothing beneath it
        return cls()
    if not isinstance(value, Mapping):
        problems.append(f"{key}: {_shown(value)}; expected a section of key: value lines")
        return cls()
    hints, fields = get_type_hints(cls), {}
    for name, item in value.items():
        item_key = f"{key}.{shortened(str(name))}" if key else shortened(str(name))
        if name not in hints:
            problems.append(f"{item_key}: unknown key; did you mean {_nearest(item_key, known)}?")
            continue
        converted = _value(hints[name], item, item_key, known, problems)
        if converted is not _UNUSABLE:
            fields[name] = converted
    return _unchecked(cls, fields)


def _unchecked(cls: type, fields: Mapping[str, Any]) -> Any:
    """An instance whose own checks wait, so that all problems of a file come in one message."""
    section = cls()
    for name, value in fields.items():
        object.__setattr__(section, name, value)  # a frozen dataclass, which nobody else has yet
    return section


def _value(hint: Any, value: Any, key: str, known: list[str], problems: list[str]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # X | None
        hint = next(a for a in args if a is not type(None))
        return None if value is None else _value(hint, value, key, known, problems)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _section(hint, value, key, known, problems)
    if origin is list:
        if not isinstance(value, list):
            problems.append(f"{key}: {_shown(value)}; expected a list")
            return _UNUSABLE
        items = enumerate(value)
        built = [_value(args[0], v, f"{key}[{i}]", known, problems) for i, v in items]
        return [v for v in built if v is not _UNUSABLE]
    if origin is dict:
        return _mapping(args[1], value, key, known, problems)
    return _scalar(hint, value, key, problems)


def _mapping(hint: Any, value: Any, key: str, known: list[str], problems: list[str]) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        to = "lists" if get_origin(hint) is list else "text"
        problems.append(f"{key}: {_shown(value)}; expected a mapping of text to {to}")
        return _UNUSABLE
    pairs = [
        (
            _scalar(str, k, f"{key} (the key {shortened(str(k))})", problems),
            _value(hint, v, f"{key}.{shortened(str(k))}", known, problems),
        )
        for k, v in value.items()
    ]
    return {k: v for k, v in pairs if not any(part is _UNUSABLE for part in (k, v))}


def _scalar(hint: Any, value: Any, key: str, problems: list[str]) -> Any:
    if hint is Any:
        if isinstance(value, Mapping | list):
            problems.append(f"{key}: {_shown(value)}; expected one value")
            return _UNUSABLE
        return value
    if value == "???":  # OmegaConf's sign for a value that the user must give
        problems.append(f"{key}: no value given; expected {_NAMES[hint]}")
        return _UNUSABLE
    if type(value) is hint:  # exactly: a bool is no number here
        return value
    if hint is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    quote = ""
    if hint is str and isinstance(value, bool):
        quote = " (YAML reads yes, no, on and off so: put the word in quotes)"
    elif hint is str and value is not None:
        quote = f" (put it in quotes: {quoted(str(value))})"
    problems.append(f"{key}: {_shown(value)}; expected {_NAMES[hint]}{quote}")
    return _UNUSABLE


def _shown(value: Any) -> str:
    if value is None:
        return "empty (null)"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return f"{quoted(value)} is {_NAMES.get(type(value), type(value).__name__)}"
