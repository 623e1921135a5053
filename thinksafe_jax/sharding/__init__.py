"""Where arrays lie: mesh files, rule tables, and the shardings that follow."""

from thinksafe_jax.sharding.chips import chip_of_device, device_topology, flags_of_device
from thinksafe_jax.sharding.memory_kinds import in_device_memory, in_host_memory
from thinksafe_jax.sharding.mesh_file import load_mesh, load_rules
from thinksafe_jax.sharding.mesh_text import mesh_text
from thinksafe_jax.sharding.model_mesh import ModelMesh
from thinksafe_jax.sharding.phases import MeshConfig, Phase, Topology
from thinksafe_jax.sharding.rules import (
    LOGICAL_AXES,
    Tensor,
    adapter_tensors,
    attention_heads,
    head_tensor,
    parameter_tensors,
    partition_spec,
    sharding_problems,
    sharding_warnings,
)
from thinksafe_jax.sharding.shardings import (
    map_optimizer_state,
    on_devices,
    reshard,
    slice_indices,
)

__all__ = [
    "LOGICAL_AXES",
    "MeshConfig",
    "ModelMesh",
    "Phase",
    "Tensor",
    "Topology",
    "adapter_tensors",
    "attention_heads",
    "chip_of_device",
    "device_topology",
    "flags_of_device",
    "head_tensor",
    "in_device_memory",
    "in_host_memory",
    "load_mesh",
    "load_rules",
    "map_optimizer_state",
    "mesh_text",
    "on_devices",
    "parameter_tensors",
    "partition_spec",
    "reshard",
    "sharding_problems",
    "sharding_warnings",
    "slice_indices",
]
