"""Reading mesh files strictly: all problems of a file in one message. Format: see `phases`.

A file of rule tables alone has the sections train and generate, or one of them. Put on a mesh it
replaces the mesh's own; an axis size may then be `rest`: what the other axes leave of the chips.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from thinksafe_jax.config import build, find_config, read_yaml
from thinksafe_jax.errors import ConfigError, did_you_mean, quoted
from thinksafe_jax.sharding.chips import FACTS, with_chip_facts
from thinksafe_jax.sharding.phases import MeshConfig, Phase, Topology
from thinksafe_jax.sharding.rules import LOGICAL_AXES, MAY_CROSS_SLICES

# above every machine there is: a slip of the pen is refused before anything is computed with it
_MOST_CHIPS = 2**20
_MOST_AXES = 8
_LONGEST_NAME = 60  # characters of an axis


def load_mesh(name: str | Path) -> MeshConfig:
    """Reads a mesh file and checks all that can be checked without a model.

    Args:
        name: a YAML file, or the name of one in configs/mesh, as `v5e-8`.

    Raises:
        ConfigError: no such file, or every unknown key, missing value, axis without a rule, rule
            for an unknown axis and size that does not multiply up, in one message.
    """
    path = find_config("mesh", name)
    raw = _read(path)
    problems: list[str] = []
    train, generate = (_take_phase(raw, phase, problems) for phase in ("train", "generate"))
    if "name" in raw:
        problems.append("name: unknown key; a mesh is called as its file")
    chip_problems: list[str] = []
    if isinstance(raw.get("topology"), dict):
        raw["topology"], chip_problems = with_chip_facts(raw["topology"])
    mesh, unknown = build(MeshConfig, raw)
    mesh = dataclasses.replace(mesh, name=path.stem, train=train, generate=generate)
    left_out = FACTS if chip_problems else ()
    problems = unknown + chip_problems + problems
    problems += _topology_problems(mesh.topology, unknown, left_out)
    if not problems:
        for name, phase in (("train", train), ("generate", generate)):
            problems += _phase_problems(phase, name, mesh.topology)
    if problems:
        head = f"{path}: " if len(problems) == 1 else f"{path}: {len(problems)} problems\n  "
        raise ConfigError(head + "\n  ".join(problems))
    return mesh


def load_rules(name: str | Path) -> Callable[[MeshConfig], MeshConfig]:
    """Reads a file of rule tables; what it gives puts them on a mesh.

    Args:
        name: a YAML file, or the name of one in configs/rules, as `whole`.

    Raises:
        ConfigError: no such file, or no table in it. Putting it on a mesh raises what `load_mesh`
            does, and says so where the sizes do not multiply up to the mesh's chips.
    """
    path = find_config("rules", name)
    raw = _read(path)
    raw.pop("topology", None)  # of a whole mesh file
    if not raw.keys() & {"train", "generate"} or raw.keys() - {"train", "generate"}:
        raise ConfigError(f"{path}: expected the sections train and generate, or one of them")

    def put_on(mesh: MeshConfig) -> MeshConfig:
        problems: list[str] = []
        phases: dict[str, Phase] = {}
        for name, section in raw.items():
            filled = _with_rest(section, mesh.topology.chips)
            taken = {name: filled}
            phases[name] = _take_phase(taken, name, problems)
            problems += build(MeshConfig, taken)[1]  # unknown keys
            if not problems:
                problems += _phase_problems(phases[name], name, mesh.topology)
        if problems:
            raise ConfigError(f"{path} on {mesh.name}: " + "; ".join(problems))
        return dataclasses.replace(mesh, **phases)

    return put_on


def _with_rest(section: Any, chips: int) -> Any:
    """The axis size `rest` in numbers, where the others divide the chips."""
    axes = section.get("axes") if isinstance(section, dict) else None
    if not isinstance(axes, dict):
        return section
    known = math.prod(size for size in axes.values() if type(size) is int and size > 0)
    rest = max(1, chips // known)
    sizes = {name: rest if size == "rest" else size for name, size in axes.items()}
    return {**section, "axes": sizes}


def _read(path: Path) -> dict[str, Any]:
    raw: Any = OmegaConf.to_container(read_yaml(path), resolve=False)
    return {str(key): value for key, value in raw.items()}


def _take_phase(raw: dict[str, Any], name: str, problems: list[str]) -> Phase:
    """The phase `name`; its parts are taken out of `raw`, whose other keys `build` then checks."""
    section = raw.get(name)
    if not isinstance(section, dict):
        problems.append(f"{name}: is missing; expected a section with axes and rules")
        raw.pop(name, None)
        return Phase()
    parts = {key: section.get(key) or {} for key in ("axes", "split", "rules", "dcn")}
    for key, value in parts.items():
        if not isinstance(value, dict):
            problems.append(f"{name}.{key}: is {quoted(value)}; expected lines of name: value")
            parts[key] = {}
        elif not _are_names(list(value)):
            problems.append(f"{name}.{key}: has a key that is no name")
            parts[key] = {}
    raw[name] = {key: value for key, value in section.items() if key not in parts}
    axes, split, rules, dcn = parts.values()
    problems += _wrong_sizes(f"{name}.axes", axes)
    problems += _wrong_sizes(f"{name}.dcn", dcn)
    problems += _wrong_names(name, split, rules)
    if problems:
        return Phase()
    listed = {k: (v,) if isinstance(v, str) else tuple(v or ()) for k, v in rules.items()}
    return Phase(axes, {k: (v[0], v[1]) for k, v in split.items()}, listed, dcn)


def _wrong_sizes(name: str, axes: dict) -> Iterator[str]:
    if len(axes) > _MOST_AXES:
        yield f"{name}: {len(axes)} axes; expected at most {_MOST_AXES}"
    for axis, size in axes.items():
        if type(size) is not int or size < 1:
            yield f"{name}.{axis}: is {quoted(size)}; expected a whole number >= 1"
        elif size > _MOST_CHIPS:
            yield f"{name}.{axis}: is {quoted(size)}; expected at most {_MOST_CHIPS:,}"


def _wrong_names(name: str, split: dict, rules: dict) -> Iterator[str]:
    for axis, names in split.items():
        if not isinstance(names, list) or not _are_names(names) or len(names) != 2:
            yield f"{name}.split.{axis}: is {quoted(names)}; expected two names, [kv, group]"
    for axis, names in rules.items():
        if names is not None and not _are_names(names):
            yield f"{name}.rules.{axis}: is {quoted(names)}; expected an axis, a list or null"


def _are_names(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return all(isinstance(name, str) and len(name) <= _LONGEST_NAME for name in names)


def _topology_problems(
    topology: Topology, known: list[str], left_out: Collection[str] = ()
) -> list[str]:
    """What is wrong with the numbers; fields that `known` problems speak of are left out too."""
    problems = []
    for f in dataclasses.fields(topology):
        value = getattr(topology, f.name)
        if f.name in left_out or any(text.startswith(f"topology.{f.name}:") for text in known):
            continue
        if f.name == "dcn_bandwidth" and topology.slices == 1 and not value:
            continue  # nothing crosses it
        if not value:
            problems.append(f"topology.{f.name}: no value given")
        elif not isinstance(value, str) and not 0 < value < math.inf:
            problems.append(f"topology.{f.name}: is {quoted(value)}; expected a number > 0")
    chips, hosts, slices = topology.chips, topology.hosts, topology.slices
    if chips > _MOST_CHIPS:
        problems.append(f"topology.chips: is {quoted(chips)}; expected at most {_MOST_CHIPS:,}")
    if not problems and not known and chips % hosts:
        problems.append(f"topology.chips: {chips} is no multiple of hosts {hosts}")
    if not problems and not known and hosts % slices:
        problems.append(f"topology.hosts: {hosts} is no multiple of slices {slices}")
    return problems


def _phase_problems(phase: Phase, name: str, topology: Topology) -> Iterator[str]:
    """What is wrong with a phase called `name` on these chips, whatever the model."""
    sizes = " x ".join(f"{axis} {size}" for axis, size in phase.axes.items())
    if phase.devices != topology.chips:
        yield (
            f"{name}.axes: {sizes or 'none'} = {phase.devices}; topology.chips is {topology.chips}"
        )
    for axis, parts in phase.split.items():
        if axis not in phase.axes:
            yield f"{name}.split.{axis}: no such axis; the axes are {sizes}"
        for part in parts:
            if part in phase.axes:
                yield f"{name}.split.{axis}: {part} is already an axis"
    yield from _rule_problems(phase, name)
    yield from _slice_problems(phase, name, topology.slices)
    used = {part for names in phase.rules.values() for part in phase.expand(names)}
    for axis, size in phase.axes.items():
        if size > 1 and not set(phase.expand((axis,))) <= used:
            yield (
                f"{name}.axes.{axis}: no rule uses it, so {size} devices would do the same work; "
                "give it a rule or the size 1"
            )


def _slice_problems(phase: Phase, name: str, slices: int) -> Iterator[str]:
    """What is wrong with `dcn`: which axes lie across slices, and in how many parts."""
    if phase.slices != slices:
        parts = " x ".join(f"{axis} {size}" for axis, size in phase.dcn.items())
        rows = next(iter(phase.rules.get("batch", ())), "data")
        fix = f"write `dcn: {{{rows}: {slices}}}`" if slices > 1 else "leave it out"
        said = f"{parts or 'none'} = {phase.slices}; topology.slices is {slices}"
        yield f"{name}.dcn: {said}; {fix}"
    for axis, parts in phase.dcn.items():
        if axis not in phase.axes:
            near = did_you_mean(axis, phase.axes, cutoff=0.0)
            yield f"{name}.dcn.{axis}: no such axis{near}"
        elif phase.axes[axis] % parts:
            yield f"{name}.dcn.{axis}: {axis} {phase.axes[axis]} is no multiple of {parts} slices"
    for logical, names in phase.rules.items():
        crossing = [n for n in names if n in phase.dcn or set(phase.expand((n,))) & set(phase.dcn)]
        if crossing and logical not in MAY_CROSS_SLICES:
            yield (
                f"{name}.rules.{logical}: {', '.join(crossing)} lies across slices, and {logical} "
                "would send activations over the data-centre network in every layer; "
                f"{' and '.join(MAY_CROSS_SLICES)} may cross it"
            )


def _rule_problems(phase: Phase, name: str) -> Iterator[str]:
    mesh_axes = [*phase.axes, *(part for parts in phase.split.values() for part in parts)]
    for logical, names in phase.rules.items():
        if logical not in LOGICAL_AXES:
            near = did_you_mean(logical, LOGICAL_AXES, cutoff=0.0)
            yield f"{name}.rules.{logical}: unknown logical axis{near}"
        for axis in names:
            if axis not in mesh_axes and mesh_axes:
                near = did_you_mean(axis, mesh_axes, cutoff=0.0)
                yield f"{name}.rules.{logical}: unknown mesh axis {axis}{near}"
        if len(set(phase.expand(names))) < len(phase.expand(names)):
            yield f"{name}.rules.{logical}: names a mesh axis twice"
    for logical in LOGICAL_AXES:
        if logical not in phase.rules:
            yield f"{name}.rules.{logical}: no rule given; write `{logical}: null` to replicate it"
