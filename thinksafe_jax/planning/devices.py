"""Devices to compile for; none of them has to exist.

For a TPU mesh they are those of the TPU compiler where libtpu is installed (it needs no TPU for
that); elsewhere they are simulated on the host.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import jax

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.sharding import Topology

_FAMILIES = {"TPU v5e": ("v5e", 2), "TPU v5p": ("v5p", 3), "TPU v6e": ("v6e", 2)}


def has_compiler(topology: Topology) -> bool:
    """Whether the compiler of the mesh's own chips is installed here."""
    return topology.chip in _FAMILIES and find_spec("libtpu") is not None


def is_simulated(topology: Topology) -> bool:
    """Whether host devices stand for chips, whose own compiler is not here."""
    return "CPU" not in topology.chip and not has_compiler(topology)


def compile_devices(topology: Topology) -> Sequence[Any]:
    """As many devices as the mesh has chips, or more.

    Raises:
        EnvironmentFault: too few simulated devices, as JAX has started before.
    """
    if has_compiler(topology):
        from jax.experimental import topologies

        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
        family, dimensions = _FAMILIES[topology.chip]
        name = f"{family}:{torus(topology.chips, dimensions)}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    simulate(topology.chips)
    devices = jax.devices("cpu")
    if len(devices) < topology.chips:
        raise EnvironmentFault(
            f"{len(devices)} host devices, {topology.chips} are needed; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.chips}"
        )
    return devices


def simulate(devices: int) -> None:
    """Asks for so many host devices at least; without effect once JAX has started."""
    with suppress(RuntimeError):
        wanted = max(devices, jax.config.values["jax_num_cpu_devices"])
        jax.config.update("jax_num_cpu_devices", wanted)


def torus(chips: int, dimensions: int) -> str:
    """The usual shape of so many chips, as 2x4 or 2x2x1."""
    sides = [1] * dimensions
    while chips > 1:
        sides[sides.index(min(sides))] *= 2
        chips //= 2
    return "x".join(str(side) for side in sorted(sides, key=lambda side: (side == 1, side)))
