"""Which devices a collective joins, read from its line of a compiled program.

Devices are numbered by their place in the program's mesh. XLA writes groups in three ways:

    replica_groups={{0,1},{2,3}}                                           as lists
    replica_groups=[2,4]<=[4,2]T(1,0)                                      0 to 7 as 4 x 2, turned
    replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}       along axes of a mesh
"""

import re
from functools import cache

import numpy as np

_LISTED = re.compile(r"replica_groups=(\{\{[\d,{}]*\}\})")
_IOTA = re.compile(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
_MESH = re.compile(r"replica_groups=(mesh\[[^\]]*\](?:, device_ids=\([^{]*\))? \{[^}]*\})")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


def replica_groups(line: str) -> np.ndarray | None:
    """Devices `[groups, devices of each]`; None where all devices of the program are one group."""
    for pattern, read in ((_LISTED, _listed), (_IOTA, _iota), (_MESH, _along_mesh)):
        if match := pattern.search(line):
            return read(match[1])
    return None


def source_target_pairs(line: str) -> np.ndarray:
    """Senders and receivers `[pairs, 2]` of a collective-permute."""
    match = _PAIRS.search(line)
    return _listed(match[1]) if match else np.zeros((0, 2), int)


@cache
def _listed(text: str) -> np.ndarray:
    groups = re.findall(r"\{([\d,]+)\}", text)
    return np.array([_numbers(group) for group in groups], int)


@cache
def _iota(text: str) -> np.ndarray:
    shape, _, order = text.partition("<=")
    return _turned(order).reshape(_numbers(shape))


@cache
def _along_mesh(text: str) -> np.ndarray:
    axes = re.findall(r"'([^']+)'=(\d+)", text)
    order = re.search(r"device_ids=\((.*)\) \{", text)
    sizes = {name: int(size) for name, size in axes}
    chosen = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", text[text.rindex("{") :])
    # an axis in part: 'a':(2)4 is the middle one of 2 x 4 x rest
    shape: list[int] = []
    places: list[int] = []  # in `shape`, of what a group lies along
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in chosen}
    for name, size in sizes.items():
        before, part = parts.get(name, (size, 1))
        if name in parts:
            places.append(len(shape) + 1)
        shape += [before, part, size // (before * part)]
    devices = _turned(order[1]) if order else np.arange(np.prod(shape))
    whole = np.moveaxis(devices.reshape(shape), places, range(-len(places), 0))
    return whole.reshape(-1, int(np.prod([shape[place] for place in places])))


def _turned(text: str) -> np.ndarray:
    """Device numbers as `[4,2]T(1,0)` or `0,2,1,3` has them, flat."""
    if not text.startswith("["):
        return np.array(_numbers(text), int)
    shape, _, order = text.partition("T")
    devices = np.arange(np.prod(_numbers(shape))).reshape(_numbers(shape))
    return devices.transpose(_numbers(order) if order else None).reshape(-1)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
