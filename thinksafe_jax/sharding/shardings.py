"""From a rule table to the shardings of everything that lives on the mesh."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import LoraConfig, ModelConfig
from thinksafe_jax.sharding.rules import (
    Rules,
    Strategy,
    Tensor,
    adapter_tensors,
    parameter_tensors,
    partition_spec,
    strategy_problems,
)

Tree = Any  # nested dict with a leaf for each array


def build_mesh(strategy: Strategy, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a strategy, its axes left to the compiler (Auto).

    Args:
        strategy: from `Phase.for_model`.
        devices: default all of them; the first `strategy.devices` are used. Devices are placed so
            that neighbours on the last axis are neighbours in the hardware.

    Raises:
        ConfigError: too few devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    need = strategy.devices
    if len(devices) < need:
        sizes = " x ".join(f"{axis} {size}" for axis, size in strategy.axes.items())
        raise ConfigError(f"the mesh {sizes} = {need} needs more than the {len(devices)} devices")
    names, sizes = tuple(strategy.axes), tuple(strategy.axes.values())
    auto = (AxisType.Auto,) * len(names)
    return jax.make_mesh(sizes, names, axis_types=auto, devices=devices[:need])


def param_shardings(cfg: ModelConfig, mesh: Mesh, rules: Rules, layout: str = "stacked") -> Tree:
    """A sharding for each parameter, as `load_params(shardings=...)` takes them.

    Args:
        mesh: from `build_mesh`.
        rules: `Strategy.rules`: logical axis -> mesh axes.
        layout: "stacked" for `[L, ...]` layers, "unstacked" for a tuple with a dict per layer
            (`unstack_layers`), where a rule for `layers` has no effect.

    Raises:
        ConfigError: everything that `strategy_problems` finds.
    """
    _check(cfg, mesh, rules, None)
    tensors = parameter_tensors(cfg)
    if layout == "stacked":
        return _tree(tensors, mesh, rules)
    if layout != "unstacked":
        raise ConfigError(f"layout {layout!r}: expected stacked or unstacked")
    one = {p: Tensor(t.shape[1:], t.axes[1:]) for p, t in tensors.items() if p[0] == "layers"}
    outer = {path: tensor for path, tensor in tensors.items() if path[0] != "layers"}
    layer = _tree(one, mesh, rules)["layers"]
    return {**_tree(outer, mesh, rules), "layers": (layer,) * cfg.num_layers}


def adapter_shardings(cfg: ModelConfig, mesh: Mesh, rules: Rules, lora: LoraConfig) -> Tree:
    """A sharding for each adapter weight: a lies as its kernel's inputs, b as its outputs."""
    _check(cfg, mesh, rules, lora)
    return _tree(adapter_tensors(cfg, lora), mesh, rules)


def optimizer_shardings(
    optimizer: optax.GradientTransformation, trainable: Tree, shardings: Tree, mesh: Mesh
) -> Tree:
    """Shardings of the optimiser's state: its moments lie as what they belong to.

    Args:
        trainable: the arrays in training, or their ShapeDtypeStructs.
        shardings: their shardings.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    return map_optimizer_state(
        optimizer, trainable, shardings, lambda _leaf, own: own or everywhere
    )


def map_optimizer_state(
    optimizer: optax.GradientTransformation, trainable: Tree, values: Tree, fn: Callable
) -> Tree:
    """A tree like the optimiser's state, which is not made, from a tree like the trainable arrays.

    Args:
        values: a value for each array in training.
        fn: (leaf of the abstract state, the value of the array it belongs to or None) -> leaf.
    """
    own = dict(jax.tree_util.tree_leaves_with_path(values))

    def one(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Any:
        # a moment's path ends in the path of its array; a counter's ends in no such path
        tails = (path[start:] for start in range(len(path)))
        return fn(leaf, next((own[tail] for tail in tails if tail in own), None))

    state = jax.eval_shape(optimizer.init, trainable)
    return jax.tree_util.tree_map_with_path(one, state)


def hidden_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """The sharding of hidden states `[B, T, D]`: rows are cut, the model's width is whole.

    Under FSDP the weights' width is cut too; without this constraint the compiler may follow the
    weights and move activations instead.
    """
    spec = partition_spec(("batch", "sequence"), rules)
    return NamedSharding(mesh, PartitionSpec(*spec, None))


def replica_meshes(mesh: Mesh, rules: Rules) -> list[Mesh]:
    """One mesh per replica, the batch's axes at size 1: what independent samplers run on.

    Replicas need no collective; in one program each would wait for the slowest at every step.
    """
    names = mesh.axis_names
    outer = [n for n in names if n in rules["batch"]]
    inner = [n for n in names if n not in outer]
    moved = mesh.devices.transpose([names.index(n) for n in (*outer, *inner)])
    sizes = tuple(mesh.shape[n] for n in inner)
    order = [(*outer, *inner).index(n) for n in names]
    auto = (AxisType.Auto,) * len(names)
    return [
        Mesh(group.reshape((1,) * len(outer) + sizes).transpose(order), names, axis_types=auto)
        for group in moved.reshape(-1, math.prod(sizes))
    ]


def on_devices(tree: Tree, shardings: Tree) -> Tree:
    """The arrays of `tree` on other devices; what lies there already is shared, not copied.

    A replica's part of parameters that all replicas hold is such a case.
    """
    return jax.tree.map(_on_devices, tree, shardings)


def _on_devices(array: jax.Array, sharding: NamedSharding) -> jax.Array:
    if not isinstance(array, jax.Array):
        return jax.device_put(array, sharding)
    here = {(s.device, str(s.index)): s.data for s in array.addressable_shards}
    wanted = sharding.addressable_devices_indices_map(array.shape)
    places = [(device, str(index)) for device, index in wanted.items()]
    if any(place not in here for place in places):
        return jax.device_put(array, sharding)
    shards = [here[place] for place in places]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, shards)


def _check(cfg: ModelConfig, mesh: Mesh, rules: Rules, lora: LoraConfig | None) -> None:
    strategy = Strategy(dict(mesh.shape), {k: tuple(v) for k, v in rules.items()})
    problems = strategy_problems(cfg, strategy, lora)
    if problems:
        raise ConfigError("the rules do not fit the model:\n  " + "\n  ".join(problems))


def _tree(tensors: dict[tuple[str, ...], Tensor], mesh: Mesh, rules: Rules) -> Tree:
    out: Tree = {}
    for path, tensor in tensors.items():
        node = out
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = NamedSharding(mesh, partition_spec(tensor.axes, rules))
    return out


def reshard(tree: dict[str, Any], shardings: Tree | None) -> dict[str, Any]:
    """Lays the arrays of `tree` out anew, one leaf after the other, and lets go of the old ones.

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
            where = shardings[name] if shardings else jax.local_devices()[0]
            tree[name] = jax.block_until_ready(jax.device_put(tree[name], where))
    return tree
