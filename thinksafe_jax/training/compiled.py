"""What a training step needs, read from the compiled program; no device, no weights.

For a TPU mesh the step is compiled by the TPU compiler itself where libtpu is installed (it needs
no TPU for that). Elsewhere it is compiled for simulated host devices, which is an upper estimate:
a CPU has no bfloat16 products and keeps float32 copies of their inputs.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.models import ModelConfig, abstract_params
from thinksafe_jax.parallel import MeshConfig, Topology, build_mesh
from thinksafe_jax.training.batches import Batch
from thinksafe_jax.training.placement import Placement
from thinksafe_jax.training.step import (
    TrainState,
    Tree,
    abstract_trainable,
    init_state,
    make_step,
)
from thinksafe_jax.training.trainer import lora_config

_FAMILIES = {"TPU v5e": ("v5e", 2), "TPU v5p": ("v5p", 3), "TPU v6e": ("v6e", 2)}


@dataclass(frozen=True)
class StepMemory:
    """Bytes per device of a compiled step.

    Attributes:
        compiled_for: the device that the program is for.
        pass_shape: sequences and tokens of one forward pass, over all devices.
        arguments: weights, adapter, optimiser state and batch.
        temporaries: everything else that is alive at the same time: gradients, gathered weights,
            activations, slices of logits.
    """

    compiled_for: str
    pass_shape: tuple[int, int]
    arguments: int
    temporaries: int

    @property
    def total(self) -> int:
        """The peak; results replace the arguments they are computed from."""
        return self.arguments + self.temporaries


def step_memory(
    cfg: ModelConfig, mesh: MeshConfig, config: TrainingConfig, dtype: str = "bfloat16"
) -> StepMemory:
    """Compiles the training step of `cfg` on a mesh and reads what it needs.

    Args:
        mesh: whose train phase is used.
        config: the recipe's; sequences have `max_length` tokens, a pass `micro_batch_size` of them,
            or one for each device that holds rows.
        dtype: of the base model.

    Raises:
        EnvironmentFault: too few simulated devices, as JAX has started before.
    """
    strategy = mesh.train.for_model(cfg)
    devices = _devices(mesh.topology)
    where = Placement(cfg, build_mesh(strategy, devices), strategy.rules)
    sequences = where.ways * max(1, config.micro_batch_size // where.ways)
    arguments = abstract_arguments(cfg, config, where, (sequences, config.max_length), dtype)
    step: Any = make_step(cfg, config, lora_config(config), 100, where)
    found = step.lower(*arguments).compile().memory_analysis()
    return StepMemory(
        devices[0].device_kind,
        (sequences, config.max_length),
        found.argument_size_in_bytes,
        found.temp_size_in_bytes,
    )


def abstract_arguments(
    cfg: ModelConfig,
    config: TrainingConfig,
    where: Placement,
    pass_shape: tuple[int, int],
    dtype: str,
) -> tuple[TrainState, Tree, Batch, Any]:
    """Shapes and shardings of what a LoRA step is called with, two passes at least."""
    lora = lora_config(config)
    trainable = _shaped(abstract_trainable(cfg, lora), where.trainable(lora))
    fresh = jax.eval_shape(lambda tree: init_state(tree, config), trainable)
    opt_state = _shaped(fresh.opt_state, where.opt_state(trainable, config, lora))
    state = TrainState(trainable, opt_state, _one(fresh.step, where.everywhere))
    params = _shaped(abstract_params(cfg, jnp.dtype(dtype)), where.params())
    passes = max(2, -(-config.batch_size // pass_shape[0]))
    kinds = (jnp.int32,) * 4 + (jnp.float32, jnp.bool_)
    shape = (passes, *pass_shape)
    arrays = [jax.ShapeDtypeStruct(shape, kind, sharding=where.batch()) for kind in kinds]
    batch = Batch(*arrays, passes=_one(fresh.step, where.everywhere))
    key = _one(jax.eval_shape(lambda: jax.random.key(0)), where.everywhere)
    return state, params, batch, key


def _one(x: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _shaped(tree: Tree, shardings: Tree) -> Tree:
    return jax.tree.map(_one, tree, shardings)


def _devices(topology: Topology) -> Sequence[Any]:
    """Devices to compile for; those of a TPU are descriptions only."""
    family = _FAMILIES.get(topology.chip)
    if family and find_spec("libtpu"):
        from jax.experimental import topologies

        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
        name = f"{family[0]}:{_shape(topology.chips, family[1])}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    with suppress(RuntimeError):  # JAX runs already
        jax.config.update("jax_num_cpu_devices", max(1, topology.chips))
    devices = jax.devices("cpu")
    if len(devices) < topology.chips:
        raise EnvironmentFault(
            f"{len(devices)} host devices, {topology.chips} are needed; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.chips}"
        )
    return devices


def _shape(chips: int, dimensions: int) -> str:
    """The usual torus of so many chips, as 2x4 or 2x2x1."""
    sides = [1] * dimensions
    while chips > 1:
        sides[sides.index(min(sides))] *= 2
        chips //= 2
    return "x".join(str(side) for side in sorted(sides, key=lambda side: (side == 1, side)))
