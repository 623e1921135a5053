"""YAML files of recipes and meshes, read within limits: a small file must not become a large one.

Two things let a few lines grow without end: an anchor that is used twice in each of thirty levels,
and a reference `${a}${a}` to a value that is made of two references itself.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thinksafe_jax.errors import ConfigError, InputError, first_line
from thinksafe_jax.json_files import MEBIBYTE, read_text
from thinksafe_jax.machine import at_home

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+|\[\d+\])*)\}")
_MOST_BYTES = MEBIBYTE  # the largest recipe of the repository has 3 kB
_MOST_VALUES = 20_000
_MOST_RESOLVED = 10 * MEBIBYTE  # characters and values, with all references filled in


def read_yaml(path: Path) -> Any:
    """The sections of a YAML file, as OmegaConf has them; references are not followed.

    A text that begins with `~/` is a path in the home folder, as on a command line.

    Raises:
        ConfigError: it cannot be read, is larger than any recipe, is no YAML, or is a list.
    """
    try:
        text = read_text(path, largest=_MOST_BYTES)
    except InputError as error:
        raise ConfigError(str(error)) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(root, yaml.ScalarNode) and not root.tag.endswith(":null"):
            raise ConfigError(f"{path}: is one value; expected sections of key: value lines")
        values = _count(root, {})
        if values > _MOST_VALUES:
            raise ConfigError(
                f"{path}: has {values:,} values, with every alias written out; at most "
                f"{_MOST_VALUES:,} are read"
            )
        config = OmegaConf.load(io.StringIO(text))
        if "~/" in text:
            config = OmegaConf.create(home_paths(OmegaConf.to_container(config, resolve=False)))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_sentence(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply, or an alias within itself") from None
    # bad `${`, a bare number as the file; a date that is none, a number of thousands of digits
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{path}: {first_line(error)}") from None
    if not OmegaConf.is_dict(config):
        raise ConfigError(f"{path}: is a list; expected sections of key: value lines")
    return config


def home_paths(value: Any) -> Any:
    """The value, with the home folder in every text of it that begins with `~/`."""
    if isinstance(value, Mapping):
        return {key: home_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [home_paths(item) for item in value]
    return at_home(value) if isinstance(value, str) else value


def check_references(path: Path, sections: Mapping[str, Any]) -> None:
    """Refuses references that would make more of the file than can be meant.

    Raises:
        ConfigError: what all references come to is larger than the limit.
    """
    try:
        size = _resolved_size(sections, sections, {})
    except RecursionError:
        raise ConfigError(f"{path}: a chain of references without end") from None
    if size > _MOST_RESOLVED:
        raise ConfigError(
            f"{path}: its references come to {size:,} characters and values; at most "
            f"{_MOST_RESOLVED:,} are allowed"
        )


def _count(node: Any, counts: dict[int, int]) -> int:
    """Values below a node, with every alias written out; a node within itself has no end."""
    if id(node) not in counts:
        counts[id(node)] = _MOST_VALUES + 1  # until it is known: what an alias to itself comes to
        inner = [] if node is None or isinstance(node, yaml.ScalarNode) else node.value
        pairs = isinstance(node, yaml.MappingNode)
        children = [child for pair in inner for child in pair] if pairs else inner
        counts[id(node)] = 1 + sum(_count(child, counts) for child in children)
    return counts[id(node)]


def _resolved_size(value: Any, sections: Mapping[str, Any], sizes: dict[str, int]) -> int:
    """Characters and values of a value with its references filled in."""
    if isinstance(value, Mapping):
        return 1 + sum(_resolved_size(item, sections, sizes) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(_resolved_size(item, sections, sizes) for item in value)
    if not isinstance(value, str):
        return 1
    size = len(value)
    for name in REFERENCE.findall(value):
        if name not in sizes:
            sizes[name] = 0  # a circle is OmegaConf's to refuse
            sizes[name] = _resolved_size(_at(sections, name), sections, sizes)
        size += sizes[name]
    return size


def _at(sections: Mapping[str, Any], name: str) -> Any:
    """The value that a reference names, None where there is none."""
    value: Any = sections
    for key in re.findall(r"\w+", name):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _sentence(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: not valid YAML: {problem or first_line(error)}"
