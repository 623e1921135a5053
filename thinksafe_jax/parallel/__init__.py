"""Sharding as data: mesh files, rule tables, and the plan of a model on a mesh."""

from thinksafe_jax.parallel.mesh_file import load_mesh
from thinksafe_jax.parallel.model_mesh import ModelMesh
from thinksafe_jax.parallel.reshard import move
from thinksafe_jax.parallel.rules import (
    LOGICAL_AXES,
    Rules,
    Strategy,
    partition_spec,
    strategy_problems,
    strategy_warnings,
)
from thinksafe_jax.parallel.shardings import (
    adapter_shardings,
    build_mesh,
    hidden_sharding,
    on_devices,
    optimizer_shardings,
    param_shardings,
    replica_meshes,
)
from thinksafe_jax.parallel.strategy import MeshConfig, Phase, Topology

__all__ = [
    "LOGICAL_AXES",
    "MeshConfig",
    "ModelMesh",
    "Phase",
    "Rules",
    "Strategy",
    "Topology",
    "adapter_shardings",
    "build_mesh",
    "hidden_sharding",
    "load_mesh",
    "move",
    "on_devices",
    "optimizer_shardings",
    "param_shardings",
    "partition_spec",
    "replica_meshes",
    "strategy_problems",
    "strategy_warnings",
]
