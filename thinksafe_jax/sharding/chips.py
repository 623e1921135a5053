"""Chips by name: configs/chips has the facts of each once, with their source.

A mesh file names its chip and says how many there are; a fact that it states itself comes before
the chip's own.

    topology: {chip: v5e, chips: 8, hosts: 1}
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from thinksafe_jax.config import build, named_configs, read_yaml
from thinksafe_jax.errors import ConfigError, did_you_mean, quoted


@dataclass(frozen=True)
class Chip:
    """A file in configs/chips; where JAX sees two devices in a chip, the facts of one of them.

    Attributes:
        name: what plans, sweeps and reports call it.
        hbm_bytes: memory beside the chip.
        peak_flops: dense bfloat16, FLOP/s.
        hbm_bandwidth: bytes/s.
        interconnect_bandwidth: bytes/s of all its links, both directions together.
    """

    name: str = ""
    hbm_bytes: float = 0.0
    peak_flops: float = 0.0
    hbm_bandwidth: float = 0.0
    interconnect_bandwidth: float = 0.0


FACTS = tuple(field.name for field in dataclasses.fields(Chip) if field.name != "name")


def with_chip_facts(topology: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A mesh file's topology, its chip's facts filled in, and what is wrong with the chip.

    A chip that no file describes is taken as it is where the topology states all facts itself.

    Raises:
        ConfigError: the chip's own file is wrong.
    """
    name = topology.get("chip")
    if not isinstance(name, str):
        return dict(topology), []
    chip = _find_chip(name)
    if chip is not None:
        facts = {fact: getattr(chip, fact) for fact in FACTS}
        return {**facts, **topology, "chip": chip.name}, []
    missing = [fact for fact in FACTS if fact not in topology]
    if not missing:
        return dict(topology), []
    known = list(named_configs("chips"))
    near = did_you_mean(name.lower(), known)
    return dict(topology), [
        f"topology.chip: no chip {quoted(name)} in configs/chips{near} ({', '.join(known)}), and "
        f"the file does not state its {', '.join(missing)}"
    ]


def _find_chip(name: str) -> Chip | None:
    """The chip that a file's name or the name in it stands for, in any case of letters."""
    files = named_configs("chips")
    file = files.get(name.lower())
    if file is not None:
        return _read_chip(file)
    chips = map(_read_chip, files.values())
    return next((chip for chip in chips if chip.name.lower() == name.lower()), None)


def _read_chip(file: Path) -> Chip:
    chip, problems = build(Chip, OmegaConf.to_container(read_yaml(file), resolve=False))
    if not problems:
        problems = [
            f"{fact}: is {quoted(value)}; expected a number > 0"
            for fact in FACTS
            if not 0 < (value := getattr(chip, fact)) < math.inf
        ]
        problems += [] if chip.name else ["name: no value given"]
    if problems:
        raise ConfigError(f"{file}: " + "; ".join(problems))
    return chip
