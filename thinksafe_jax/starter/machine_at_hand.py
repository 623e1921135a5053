"""On what the first recipe will run: the devices here, or those of a mesh that is named."""

from dataclasses import dataclass

import jax

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.machine import free_memory
from thinksafe_jax.pipeline import ready_meshes
from thinksafe_jax.sharding import LOGICAL_AXES, MeshConfig, Phase, Topology, load_mesh

_FREE_SHARE = 0.75  # of a computer's free memory; the rest is everybody's
_ALONE = Phase(rules=dict.fromkeys(LOGICAL_AXES, ()))  # one device holds everything


@dataclass(frozen=True)
class Machine:
    """Devices, and how a model lies on them.

    Attributes:
        said: in words.
        topology: of the devices; `hbm_bytes` is the memory of one.
        mesh: name of a mesh file; None is one device.
        mesh_because: the reason.
        generate, train: the phases.
        on_cpu: the model runs on the processor.
    """

    said: str
    topology: Topology
    mesh: str | None
    mesh_because: str
    generate: Phase
    train: Phase
    on_cpu: bool


def machine_at_hand(mesh: str | None = None) -> Machine:
    """The machine that a recipe is for.

    Args:
        mesh: of another machine: a file or a name in configs/mesh. Default: the devices here.

    Raises:
        ConfigError: no such mesh, or devices whose memory nobody says.
    """
    if mesh is not None:
        return _of_mesh(load_mesh(mesh), mesh, "named by --mesh")
    device, count = jax.devices()[0], jax.device_count()
    if device.platform == "cpu":
        return _of_host()
    meshes = ready_meshes(device.device_kind)
    fitting = next((name for name, chips in meshes.items() if chips == count), None)
    if fitting is not None and count > 1:
        return _of_mesh(load_mesh(fitting), fitting, f"the ready mesh of {count} such devices")
    memory = (device.memory_stats() or {}).get("bytes_limit")
    if memory is None:
        raise ConfigError(
            f"{device.device_kind}: nothing here says how much memory it has; name a mesh whose "
            "file says it, as --mesh v5e-8 (`thinksafe configs` lists them)"
        )
    topology = Topology(device.device_kind, 1, 1, memory)
    because = "one device" if count == 1 else f"no ready mesh has {count} of them: one is used"
    said = f"{count} x {device.device_kind}, {memory / 1e9:.0f} GB each"
    return Machine(said, topology, None, because, _ALONE, _ALONE, on_cpu=False)


def _of_mesh(mesh: MeshConfig, name: str, because: str) -> Machine:
    topology = mesh.topology
    said = f"{topology.chips} x {topology.chip}, {topology.hbm_bytes / 1e9:.0f} GB each"
    on_cpu = "CPU" in topology.chip
    return Machine(said, topology, name, because, mesh.generate, mesh.train, on_cpu)


def _of_host() -> Machine:
    memory = free_memory()
    if memory is None:
        raise ConfigError(
            "this system does not say how much memory is free; name the machine: --mesh NAME"
        )
    topology = Topology("CPU", 1, 1, _FREE_SHARE * memory)
    said = f"a CPU, {memory / 1e9:.1f} GB of memory free"
    because = "the processor is one device"
    return Machine(said, topology, None, because, _ALONE, _ALONE, on_cpu=True)
