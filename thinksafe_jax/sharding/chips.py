"""Chips by name: configs/chips has the facts of each once, with their source.

A mesh file names its chip and says how many there are; a fact that it states itself comes before
the chip's own.

    topology: {chip: v5e, chips: 8, hosts: 1}
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from thinksafe_jax.config import build, named_configs, read_yaml
from thinksafe_jax.errors import ConfigError, ThinkSafeError, did_you_mean, quoted
from thinksafe_jax.sharding.phases import Topology


@dataclass(frozen=True)
class Chip:
    """A file in configs/chips; where JAX sees two devices in a chip, the facts of one of them.

    Attributes:
        name: what plans, sweeps and reports call it.
        device_kind: what JAX calls it (`jax.Device.device_kind`); "" where that is not known.
        hbm_bytes: memory beside the chip.
        peak_flops: dense bfloat16, FLOP/s.
        hbm_bandwidth: bytes/s.
        interconnect_bandwidth: bytes/s of all its links, both directions together.
        xla_flags: the preset of the compiler's flags, as LIBTPU_INIT_ARGS takes them; the launch
            scripts set them.
    """

    name: str = ""
    device_kind: str = ""
    hbm_bytes: float = 0.0
    peak_flops: float = 0.0
    hbm_bandwidth: float = 0.0
    interconnect_bandwidth: float = 0.0
    xla_flags: list[str] = field(default_factory=list)


_FLAG = re.compile(r"--xla_\w+=[\w.,\-]+")
FACTS = tuple(field.name for field in dataclasses.fields(Chip) if field.type is float)


def with_chip_facts(topology: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A mesh file's topology, its chip's facts filled in, and what is wrong with the chip.

    A chip that no file describes is taken as it is where the topology states all facts itself.

    Raises:
        ConfigError: the chip's own file is wrong.
    """
    name = topology.get("chip")
    if not isinstance(name, str):
        return dict(topology), []
    missing = [fact for fact in FACTS if fact not in topology]
    chip = _find_chip(name, needed=bool(missing))
    if chip is not None:
        facts = {fact: getattr(chip, fact) for fact in FACTS}
        return {**facts, **topology, "chip": chip.name}, []
    if not missing:
        return dict(topology), []
    known = list(named_configs("chips"))
    near = did_you_mean(name.lower(), known)
    return dict(topology), [
        f"topology.chip: no chip {quoted(name)} in configs/chips{near} ({', '.join(known)}), and "
        f"the file does not state its {', '.join(missing)}"
    ]


def chip_of_device(device_kind: str) -> str | None:
    """The name of the chip that JAX calls so; None where no file in configs/chips says it.

    Newer JAX may call a chip by its usual name: "TPU v5e" for "TPU v5 lite".
    """
    chip = _of_device(device_kind)
    return chip.name if chip else None


def flags_of_device(device_kind: str) -> list[str]:
    """The preset of the compiler's flags for what JAX calls so; none where no file has any."""
    chip = _of_device(device_kind)
    return chip.xla_flags if chip else []


def _of_device(device_kind: str) -> Chip | None:
    chips, _ = _readable(named_configs("chips").values())
    return next((c for c in chips if device_kind in (c.device_kind, c.name)), None)


def device_topology(device_kind: str) -> Topology | None:
    """One device by itself; None where no file in configs/chips says it."""
    name = chip_of_device(device_kind)
    if name is None:
        return None
    facts, _ = with_chip_facts({"chip": name, "chips": 1, "hosts": 1})
    return Topology(**facts)


def _find_chip(name: str, *, needed: bool) -> Chip | None:
    """The chip that a file's name or the name in it stands for, in any case of letters.

    Args:
        needed: facts are missing without it; where no readable file has the name, one that cannot
            be read may be the one that is meant, and is refused.
    """
    files = named_configs("chips")
    file = files.get(name.lower())
    if file is not None:
        return _read_chip(file)
    chips, faults = _readable(files.values())
    chip = next((chip for chip in chips if chip.name.lower() == name.lower()), None)
    if chip is None and needed and faults:
        raise faults[0]
    return chip


def _readable(files: Iterable[Path]) -> tuple[list[Chip], list[ThinkSafeError]]:
    """Chips of the files that can be read, and what is wrong with the others."""
    chips: list[Chip] = []
    faults: list[ThinkSafeError] = []
    for file in files:
        try:
            chips.append(_read_chip(file))
        except ThinkSafeError as fault:
            faults.append(fault)
    return chips, faults


def _read_chip(file: Path) -> Chip:
    chip, problems = build(Chip, OmegaConf.to_container(read_yaml(file), resolve=False))
    if not problems:
        problems = [
            f"{fact}: is {quoted(value)}; expected a number > 0"
            for fact in FACTS
            if not 0 < (value := getattr(chip, fact)) < math.inf
        ]
        problems += [] if chip.name else ["name: no value given"]
        problems += [
            f"xla_flags: has {quoted(flag)}; expected --xla_NAME=VALUE"
            for flag in chip.xla_flags
            if not _FLAG.fullmatch(flag)
        ]
    if problems:
        raise ConfigError(f"{file}: " + "; ".join(problems))
    return chip
