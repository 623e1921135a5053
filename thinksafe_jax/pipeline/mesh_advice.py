"""Which ready mesh file is for the devices at hand."""

from collections.abc import Iterator

from thinksafe_jax.config import named_configs
from thinksafe_jax.errors import ThinkSafeError
from thinksafe_jax.sharding import Topology, chip_of_device, load_mesh


def mesh_advice(device_kind: str, count: int) -> str:
    """One sentence for a run without a mesh on several devices, of which it leaves all but one.

    Args:
        device_kind: as JAX has it, "TPU v5 lite".
    """
    said = f"{count} devices ({device_kind}) and no mesh: one of them does all the work"
    alike = ready_meshes(device_kind)
    fitting = [name for name, chips in alike.items() if chips == count]
    if fitting:
        return f"{said}; mesh={fitting[0]} uses all of them"
    if not alike:
        return f"{said}; docs/sharding.md says how a mesh file of your own is written"
    nearest = min(alike, key=lambda name: abs(alike[name] - count))
    return (
        f"{said}, and no ready mesh has {count}; copy the nearest (`thinksafe configs copy "
        f"mesh/{nearest}`), set its chips and axes to {count} and name it: mesh={nearest}.yaml"
    )


def ready_meshes(device_kind: str) -> dict[str, int]:
    """{name: chips} of every mesh file of one slice for devices that JAX calls so.

    v5e-16 comes before a table for another purpose, v5e-16-long.
    """
    chip = chip_of_device(device_kind)
    return {
        name: topology.chips
        for name, topology in sorted(_topologies(), key=lambda item: len(item[0]))
        if topology.chip == chip and topology.slices == 1
    }


def _topologies() -> Iterator[tuple[str, Topology]]:
    """(name, topology) of every mesh file that can be read."""
    for name in named_configs("mesh"):
        try:
            yield name, load_mesh(name).topology
        except ThinkSafeError:  # a file of the user's own, which nobody has named
            continue
