"""Where arrays lie: mesh files, rule tables, and the shardings that follow."""

from thinksafe_jax.sharding.mesh_file import load_mesh, load_rules
from thinksafe_jax.sharding.model_mesh import ModelMesh
from thinksafe_jax.sharding.phases import MeshConfig, Phase, Topology
from thinksafe_jax.sharding.rules import (
    Rules,
    Strategy,
    Tensor,
    adapter_tensors,
    parameter_tensors,
    partition_spec,
    strategy_problems,
    strategy_warnings,
)
from thinksafe_jax.sharding.shardings import (
    adapter_shardings,
    build_mesh,
    map_optimizer_state,
    on_devices,
    optimizer_shardings,
    param_shardings,
    replica_meshes,
    reshard,
)

__all__ = [
    "MeshConfig",
    "ModelMesh",
    "Phase",
    "Rules",
    "Strategy",
    "Tensor",
    "Topology",
    "adapter_shardings",
    "adapter_tensors",
    "build_mesh",
    "load_mesh",
    "load_rules",
    "map_optimizer_state",
    "on_devices",
    "optimizer_shardings",
    "param_shardings",
    "parameter_tensors",
    "partition_spec",
    "replica_meshes",
    "reshard",
    "strategy_problems",
    "strategy_warnings",
]
