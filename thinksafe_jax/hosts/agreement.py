"""What must be equal on all hosts before work begins, and who differs where it is not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.hosts.group import Group

_SHOWN = 5  # differences


def compare_hosts(group: Group, what: str, facts: Mapping[str, str]) -> None:
    """Every process calls this with its own facts, as {"seed": "42"}.

    Args:
        what: of what kind they are, as "config", for the message.

    Raises:
        ConfigError: they differ; the same message on every process, naming host, fact and values.
    """
    every = group.gather(f"compare {what}", dict(facts))
    names = sorted({name for values_of in every for name in values_of})
    lines = []
    for name in names:
        values = [values_of.get(name, "absent") for values_of in every]
        usual = majority(values)
        lines += [
            f"{name} is {value} on {group.describe(index)}, {usual} on {_others(group, values)}"
            for index, value in enumerate(values)
            if value != usual
        ]
    if lines:
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise ConfigError(
            f"the hosts differ in their {what}: {'; '.join(lines[:_SHOWN] + more)}. Give all of "
            "them the same command, code and files"
        )


def _others(group: Group, values: list[str]) -> str:
    """Who has the usual value: named where it is one process, counted where several."""
    usual = majority(values)
    same = [index for index, value in enumerate(values) if value == usual]
    return group.describe(same[0]) if len(same) == 1 else f"{len(same)} others"


def majority(values: Sequence[Any]) -> Any:
    """The most frequent value, the earliest of several."""
    return Counter(values).most_common(1)[0][0]
