"""Devices to compile for; none of them has to exist.

For a TPU mesh they are those of the TPU compiler where libtpu is installed (it needs no TPU for
that); elsewhere they are simulated on the host.
"""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import Any

import jax

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.sharding import Topology

# libtpu asks the machine which TPU it has and complains at length where it has none
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",  # what is compiled for is the topology's, not this
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # chips want one process; compiling beside it is no harm
}
_FAMILIES = {"TPU v5e": ("v5e", 2), "TPU v5p": ("v5p", 3), "TPU v6e": ("v6e", 2)}


def has_compiler(topology: Topology) -> bool:
    """Whether the compiler of the mesh's own chips is installed here."""
    return topology.chip in _FAMILIES and find_spec("libtpu") is not None


def is_simulated(topology: Topology) -> bool:
    """Whether host devices stand for chips, whose own compiler is not here."""
    return "CPU" not in topology.chip and not has_compiler(topology)


def compile_devices(topology: Topology, chips: int | None = None) -> Sequence[Any]:
    """Devices of the whole mesh, or of a program that runs on `chips` neighbours of one host.

    A part of a TPU mesh is a slice of its own, of the part's shape: the TPU compiler numbers the
    devices of a program from 0, and knows none beyond their number.

        v5e-16, hosts of 2 x 2              a program of one host
        |  0  1 |  2  3 |
        |  4  5 |  6  7 |      ------>      | 0 1 |
        |  8  9 | 10 11 |                   | 2 3 |
        | 12 13 | 14 15 |

    Returns:
        So many devices; simulated ones may be more for the whole mesh.

    Raises:
        EnvironmentFault: too few simulated devices, as JAX has started before.
    """
    if has_compiler(topology):
        slices = topology.slices if chips is None else 1
        chips = (chips or topology.chips) // slices
        return _slices(topology.chip, chips, min(chips, topology.chips_per_host), slices)
    simulate(topology.chips)
    devices = jax.devices("cpu")
    if len(devices) < topology.chips:
        raise EnvironmentFault(
            f"{len(devices)} host devices, {topology.chips} are needed; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.chips}"
        )
    return devices[:chips]


@cache
def _slices(chip: str, chips: int, chips_per_host: int, slices: int) -> Sequence[Any]:
    """Devices of TPU slices of so many chips each, slice by slice, in the order of their hosts."""
    from jax.experimental import topologies

    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    family, dimensions = _FAMILIES[chip]
    host = [int(side) for side in torus(chips_per_host, dimensions).split("x")]
    return topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{family}:{torus(chips, dimensions)}",
        chips_per_host_bounds=host + [1] * (3 - dimensions),
        **({"num_slices": slices} if slices > 1 else {}),
    ).devices


def simulate(devices: int) -> None:
    """Asks for so many host devices at least; without effect once JAX has started."""
    with suppress(RuntimeError):
        wanted = max(devices, jax.config.values["jax_num_cpu_devices"])
        jax.config.update("jax_num_cpu_devices", wanted)


def torus(chips: int, dimensions: int) -> str:
    """The usual shape of so many chips, as 2x4, 2x2x1 or, of 768 chips of a v5p, 8x8x12."""
    sides, twos = [1] * dimensions, chips & -chips  # the powers of two in them
    while math.prod(sides) < twos:
        sides[sides.index(min(sides))] *= 2
    sides[sides.index(min(sides))] *= chips // twos
    return "x".join(str(side) for side in sorted(sides, key=lambda side: (side == 1, side)))
