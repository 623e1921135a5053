"""Several trainings from one line: `lr-{learning_rate}`, `training.learning_rate=[1e-5,3e-5]`."""

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from thinksafe_jax.config.differences import flat
from thinksafe_jax.config.load import parse_override
from thinksafe_jax.config.recipe import Recipe
from thinksafe_jax.errors import ConfigError, listed, quoted

_PLACE = re.compile(r"\{([^{}]*)\}")


def expand_sweep(template: str, overrides: Sequence[str]) -> dict[str, list[str]]:
    """The trainings that a name and overrides stand for: {name: its overrides}, in order.

    A list of values for a key that takes one value gives a training for each; several such keys
    give every combination. For a key that takes a list (training.lora_targets) that is a list of
    lists.

    Args:
        template: a name; {key} in it stands for the value of a key that is given, by its last part.

    Raises:
        ConfigError: an override that is none, an unknown {key}, or two trainings of one name.
    """
    given = [parse_override(text) for text in overrides]
    choices = [[(key, value) for value in _choices(key, value)] for key, value in given]
    trainings: dict[str, list[str]] = {}
    for chosen in itertools.product(*choices):
        name = _name(template, dict(chosen))
        if name in trainings:
            swept = listed(
                f"{{{key.rpartition('.')[2]}}}"
                for (key, _), values in zip(given, choices, strict=True)
                if len(values) > 1
            )
            raise ConfigError(
                f"--as {template}: several trainings would be called {quoted(name)}; tell them "
                f"apart by {swept} in the name"
            )
        trainings[name] = [f"{key}={json.dumps(value)}" for key, value in chosen]
    return trainings


def _choices(key: str, value: Any) -> list[Any]:
    takes_list = isinstance(flat(Recipe()).get(key), list)
    if not isinstance(value, list) or not value:
        return [value]
    if takes_list and not all(isinstance(item, list) for item in value):
        return [value]
    return value


def _name(template: str, values: dict[str, Any]) -> str:
    texts = {key.rpartition(".")[2]: _short(value) for key, value in values.items()}

    def text(place: re.Match[str]) -> str:
        key = place[1].rpartition(".")[2]
        if key not in texts:
            known = listed(f"{{{name}}}" for name in texts) or "none: no key=value is given"
            raise ConfigError(f"--as {template}: no {place[0]}; there are {known}")
        return texts[key]

    return _PLACE.sub(text, template)


def _short(value: Any) -> str:
    """A value as part of a name: 3e-5, q_proj+v_proj."""
    if isinstance(value, list):
        return "+".join(map(_short, value))
    if isinstance(value, float):
        return re.sub(r"e([+-])0+", r"e\1", f"{value:g}").replace("e+", "e")
    return str(value)
