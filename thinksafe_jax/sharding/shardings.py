"""Devices as a mesh, the shardings of whole trees, and arrays on their way to another layout."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.sharding.phases import Phase, Rules
from thinksafe_jax.sharding.rules import Tensor, partition_spec

Tree = Any  # nested dict with a leaf for each array


def build_mesh(phase: Phase, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a phase, its axes left to the compiler (Auto).

    Args:
        phase: divided for a model, see `Phase.for_model`.
        devices: default all of them; the first `phase.devices` are used. Devices are placed so
            that neighbours on the last axis are neighbours in the hardware, and slices apart along
            `Phase.dcn`.

    Raises:
        ConfigError: too few devices, or not in as many slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    need = phase.devices
    if len(devices) < need:
        sizes = " x ".join(f"{axis} {size}" for axis, size in phase.axes.items())
        raise ConfigError(f"the mesh {sizes} = {need} needs more than the {len(devices)} devices")
    names, outer = tuple(phase.axes), [phase.dcn.get(name, 1) for name in phase.axes]
    inner = [size // parts for size, parts in zip(phase.axes.values(), outer, strict=True)]
    slices = _split_into_slices(devices[:need], phase.slices)
    # `jax.make_mesh` refuses fsdp 16 x tensor 4 on the 8 x 8 chips of a v6e-64: no side is 4 long
    placed = [create_device_mesh(inner, s, allow_split_physical_axes=True) for s in slices]
    # [slices, inner ...] -> [outer ..., inner ...] -> [outer, inner, outer, inner ...] -> [axes]
    grid, axes = np.stack(placed).reshape(*outer, *inner), range(len(names))
    pairs = [position for axis in axes for position in (axis, len(names) + axis)]
    whole = grid.transpose(pairs).reshape(*phase.axes.values())
    return Mesh(whole, names, axis_types=(AxisType.Auto,) * len(names))


def slice_indices(devices: Sequence[Any], slices: int) -> list[int]:
    """Which of `slices` each device lies in.

    TPUs say it themselves. Elsewhere slices are simulated: as many parts of equal size, in the
    order of the devices' ids, and so of the processes.

    Raises:
        ConfigError: the TPUs lie in another number of slices.
    """
    if devices[0].platform == "tpu" and hasattr(devices[0], "slice_index"):
        said = [device.slice_index for device in devices]
        known = sorted(set(said))
        if len(known) != slices:
            raise ConfigError(
                f"the mesh lies on {slices} slice(s), the {len(devices)} devices in {len(known)}; "
                "topology.slices of the mesh file and dcn of its phases must say so"
            )
        return [known.index(index) for index in said]
    order = sorted(range(len(devices)), key=lambda n: devices[n].id)
    size = len(devices) // slices
    return [place // size for place in np.argsort(order).tolist()]


def _split_into_slices(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    parts: list[list[Any]] = [[] for _ in range(slices)]
    for device, index in zip(devices, slice_indices(devices, slices), strict=True):
        parts[index].append(device)
    return parts


def replica_meshes(mesh: Mesh, batch: Sequence[str]) -> list[Mesh]:
    """One mesh for each replica, the batch's axes at size 1.

        axes {replica: 2, tensor: 4}, batch on replica

        replica | 0 1 2 3 |   ------>   [ 0 1 2 3 ]   [ 4 5 6 7 ]
                | 4 5 6 7 |
                  tensor

    Args:
        batch: mesh axes over which rows are cut.
    """
    names = mesh.axis_names
    outer = [n for n in names if n in batch]
    inner = [n for n in names if n not in outer]
    # the batch's axes come first, so that one index of the flattened array is one replica
    outer_first = mesh.devices.transpose([names.index(n) for n in (*outer, *inner)])
    sizes = tuple(mesh.shape[n] for n in inner)
    order = [(*outer, *inner).index(n) for n in names]
    auto = (AxisType.Auto,) * len(names)
    return [
        Mesh(group.reshape((1,) * len(outer) + sizes).transpose(order), names, axis_types=auto)
        for group in outer_first.reshape(-1, math.prod(sizes))
    ]


def sharding_tree(tensors: Mapping[tuple[str, ...], Tensor], mesh: Mesh, rules: Rules) -> Tree:
    """A nested dict with the NamedSharding of each tensor at its path."""
    tree: Tree = {}
    for path, tensor in tensors.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = NamedSharding(mesh, partition_spec(tensor.axes, rules))
    return tree


def map_optimizer_state(
    optimizer: optax.GradientTransformation, trainable: Tree, values: Tree, fn: Callable
) -> Tree:
    """A tree like the optimiser's state, which is not made, from a tree like the trainable arrays.

    Args:
        trainable: the arrays in training, or their ShapeDtypeStructs.
        values: a value for each array in training.
        fn: (leaf of the abstract state, the value of the array it belongs to or None) -> leaf.
    """
    by_path = dict(jax.tree_util.tree_leaves_with_path(values))

    def leaf_of(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Any:
        # a moment's path ends in the path of its array; a counter's ends in no such path
        tails = (path[start:] for start in range(len(path)))
        return fn(leaf, next((by_path[tail] for tail in tails if tail in by_path), None))

    state = jax.eval_shape(optimizer.init, trainable)
    return jax.tree_util.tree_map_with_path(leaf_of, state)


def on_devices(tree: Tree, shardings: Tree) -> Tree:
    """The arrays of `tree` on other devices; what lies there already is shared, not copied.

        params on replica 2 x tensor 4       one replica: tensor 4

        device  0 1 2 3  4 5 6 7             device  4 5 6 7
        part    a b c d  a b c d   ------>   part    a b c d     the very buffers

    A replica's part of parameters that all replicas hold is such a case.
    """
    return jax.tree.map(_on_devices, tree, shardings)


def _on_devices(array: jax.Array, sharding: NamedSharding) -> jax.Array:
    if not isinstance(array, jax.Array):
        return jax.device_put(array, sharding)
    # device_put copies whenever the sets of devices differ, even where each part is there already
    present = {(s.device, str(s.index)): s.data for s in array.addressable_shards}
    indices = sharding.addressable_devices_indices_map(array.shape)
    wanted = [(device, str(index)) for device, index in indices.items()]
    if any(place not in present for place in wanted):
        return jax.device_put(array, sharding)
    shards = [present[place] for place in wanted]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, shards)


def reshard(tree: dict[str, Any], shardings: Tree | None) -> dict[str, Any]:
    """Lays the arrays of `tree` out anew, one leaf after the other, and lets go of the old ones.

        train: fsdp 8                 generate: replica 2 x tensor 4

        q_proj   |0|1|2|3|4|5|6|7|    freed                  |0,4|1,5|2,6|3,7|
        k_proj   |0|1|2|3|4|5|6|7|    <-- this one is there twice -->
        v_proj   |0|1|2|3|4|5|6|7|    not there yet

    The tree is emptied on the way: at any time the devices hold all of it once, and one leaf twice.
    An array that somebody else still holds stays alive, and whole.

    Args:
        tree: taken over by this function.
        shardings: like `tree`; None is this process's first device.

    Returns:
        The same nested dict.
    """
    for name in list(tree):
        if isinstance(tree[name], dict):
            reshard(tree[name], shardings and shardings[name])
        else:
            sharding = shardings[name] if shardings else jax.local_devices()[0]
            # waiting frees the old leaf before the next one is made: without it all are in flight
            tree[name] = jax.block_until_ready(jax.device_put(tree[name], sharding))
    return tree
