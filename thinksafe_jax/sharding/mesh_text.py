"""Writing a mesh file: the hardware of one that is there, with other tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml
from omegaconf import OmegaConf

from thinksafe_jax.config import find_config, read_yaml
from thinksafe_jax.sharding.phases import Phase


def mesh_text(source: str | Path, train: Phase, generate: Phase, comment: Sequence[str]) -> str:
    """A mesh file (YAML) as `load_mesh` reads it.

    Args:
        source: the mesh file, or the name of one, whose topology it has.
        train, generate: as a file has them, axes not yet divided for a model.
        comment: lines above it, the first of them a command that uses the file.
    """
    raw: Any = OmegaConf.to_container(read_yaml(find_config("mesh", source)), resolve=False)
    lines = [f"# {line}".rstrip() for line in comment]
    topology = yaml.safe_dump(raw["topology"], sort_keys=False, allow_unicode=True)
    lines += ["topology:", indent(topology, "  ").rstrip()]
    for name, phase in (("train", train), ("generate", generate)):
        lines += ["", f"{name}:", *_phase_lines(phase)]
    return "\n".join(lines) + "\n"


def _phase_lines(phase: Phase) -> list[str]:
    split = {axis: f"[{', '.join(parts)}]" for axis, parts in phase.split.items()}
    rules = {logical: _axes(names) for logical, names in phase.rules.items()}
    return [
        f"  axes: {_inline(phase.axes)}",
        *([f"  dcn: {_inline(phase.dcn)}"] if phase.dcn else []),
        *([f"  split: {_inline(split)}"] if split else []),
        "  rules:",
        *(f"    {logical}: {names}" for logical, names in rules.items()),
    ]


def _inline(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}"


def _axes(names: Sequence[str]) -> str:
    if len(names) > 1:
        return f"[{', '.join(names)}]"
    return names[0] if names else "null"
