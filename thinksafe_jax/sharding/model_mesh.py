"""One model on one phase of a mesh: where its arrays lie, and what keeps the compiler from moving
them.

FSDP cuts every kernel along the model's width. Left alone, the compiler may then cut the hidden
states the same way and gather those instead of the weights; so they are pinned to "rows cut, width
whole" after the embedding and each block, and attention runs in a `shard_map`, on each device for
its own rows and heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from thinksafe_jax.models import ModelConfig, causal_attention
from thinksafe_jax.sharding.mesh_file import load_mesh
from thinksafe_jax.sharding.phases import Phase
from thinksafe_jax.sharding.rules import LOGICAL_AXES, Rules, partition_spec
from thinksafe_jax.sharding.shardings import (
    build_mesh,
    hidden_sharding,
    param_shardings,
    replica_meshes,
)

Tree = Any


@dataclass(frozen=True, eq=False)  # by identity, so that its methods can be static to a jit
class ModelMesh:
    """A model, its mesh and its rule table."""

    cfg: ModelConfig
    mesh: Mesh
    rules: Rules

    @classmethod
    def of_phase(cls, phase: Phase, cfg: ModelConfig, devices: Sequence[Any] | None = None) -> Self:
        """A phase of a mesh file for one model.

        Args:
            devices: default all of them, over all processes.

        Raises:
            ConfigError: it does not fit the model, or asks for more devices.
        """
        strategy = phase.for_model(cfg)
        return cls(cfg, build_mesh(strategy, devices), strategy.rules)

    @classmethod
    def generating(cls, name: str, cfg: ModelConfig) -> Self:
        """This process's part of the generate phase: its own replicas on its own devices.

        Args:
            name: a mesh file, or the name of one in configs/mesh.

        Raises:
            ConfigError: also where the replicas do not divide over the processes.
        """
        phase = load_mesh(name).generate.of_host(jax.process_count())
        return cls.of_phase(phase, cfg, jax.local_devices())

    @classmethod
    def of_sizes(
        cls,
        cfg: ModelConfig,
        *,
        replicas: int = 1,
        tensor: int = 1,
        devices: Sequence[Any] | None = None,
    ) -> Self:
        """A mesh for sampling that needs no file.

        Args:
            replicas: copies of the model, which share the rows.
            tensor: devices of each replica; heads, MLP and vocabulary are cut over them. Where it
                is above the number of KV heads, several devices hold the same ones.
            devices: default those of this process.

        Raises:
            ConfigError: too few devices, or a size that does not divide.
        """
        cut = dict.fromkeys(("heads", "mlp", "vocab"), ("tensor",))
        rules = {**dict.fromkeys(LOGICAL_AXES, ()), **cut, "kv_heads": ("kv",)}
        phase = Phase(
            axes={"replica": replicas, "tensor": tensor},
            split={"tensor": ("kv", "group")},
            rules={**rules, "batch": ("replica",)},
        )
        return cls.of_phase(phase, cfg, jax.local_devices() if devices is None else devices)

    def replicas(self) -> "list[ModelMesh]":
        """A mesh for each replica, on which the rows are not cut: independent samplers."""
        alone = {**self.rules, "batch": ()}
        meshes = replica_meshes(self.mesh, self.rules)
        return [replace(self, mesh=mesh, rules=alone) for mesh in meshes]

    @property
    def ways(self) -> int:
        """Devices over which the rows of a forward pass are spread."""
        return math.prod(self.mesh.shape[name] for name in self.rules["batch"])

    @property
    def everywhere(self) -> NamedSharding:
        """Of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def params(self, layout: str = "stacked") -> Tree:
        """Shardings of the model's parameters, as `param_shardings` gives them."""
        return param_shardings(self.cfg, self.mesh, self.rules, layout)

    def leading(self) -> NamedSharding:
        """Of arrays `[B, ...]` with a row for each sequence; B is a multiple of `ways`."""
        return NamedSharding(self.mesh, PartitionSpec(self.rules["batch"] or None))

    def constrain(self, hidden: jax.Array) -> jax.Array:
        """Pins hidden states `[B, T, D]`."""
        where = hidden_sharding(self.mesh, self.rules)
        return jax.lax.with_sharding_constraint(hidden, where)

    def attention(
        self, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array
    ) -> jax.Array:
        """`causal_attention` without any communication."""
        queries, keys = (
            partition_spec(("batch", "sequence", heads, "head_dim"), self.rules)
            for heads in ("heads", "kv_heads")
        )
        segments = partition_spec(("batch", "sequence"), self.rules)
        platform = self.mesh.devices.flat[0].platform
        local = jax.shard_map(
            partial(causal_attention, platform=platform),
            mesh=self.mesh,
            in_specs=(queries, keys, keys, segments),
            out_specs=queries,
            check_vma=False,  # Pallas kernels do not say how their results vary over the mesh
        )
        return local(q, k, v, segment_ids)
