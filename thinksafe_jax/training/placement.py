"""Where training's arrays lie on a mesh, and what keeps the compiler from moving them.

FSDP cuts every kernel along the model's width. Left alone, the compiler may then cut the hidden
states the same way and gather those instead of the weights; so they are pinned to "rows cut, width
whole" after the embedding and each block, and attention runs in a `shard_map`, on each device for
its own rows and heads.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.models import LoraConfig, ModelConfig
from thinksafe_jax.models.attention import causal_attention
from thinksafe_jax.parallel import (
    Rules,
    adapter_shardings,
    build_mesh,
    hidden_sharding,
    load_mesh,
    optimizer_shardings,
    param_shardings,
    partition_spec,
)
from thinksafe_jax.training.optimizer import make_optimizer

Tree = Any


@dataclass(frozen=True)
class Placement:
    """The train phase of a mesh file, for one model."""

    cfg: ModelConfig
    mesh: Mesh
    rules: Rules

    @classmethod
    def load(cls, name: str, cfg: ModelConfig) -> "Placement":
        """From a mesh file, or the name of one in configs/mesh.

        Raises:
            ConfigError: the file is wrong, does not fit the model, or asks for more devices.
        """
        strategy = load_mesh(name).train.for_model(cfg)
        return cls(cfg, build_mesh(strategy), strategy.rules)

    @property
    def ways(self) -> int:
        """Devices over which the sequences of a forward pass are spread."""
        ways = 1
        for name in self.rules["batch"]:
            ways *= self.mesh.shape[name]
        return ways

    @property
    def everywhere(self) -> NamedSharding:
        """Of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def params(self) -> Tree:
        """Of the base model's parameters."""
        return param_shardings(self.cfg, self.mesh, self.rules)

    def trainable(self, lora: LoraConfig | None) -> Tree:
        """Of the adapter, or of all parameters."""
        if lora is None:
            return self.params()
        return adapter_shardings(self.cfg, self.mesh, self.rules, lora)

    def opt_state(self, trainable: Tree, config: TrainingConfig, lora: LoraConfig | None) -> Tree:
        """Of the optimiser's state; `trainable` may be shapes."""
        shardings = self.trainable(lora)
        return optimizer_shardings(make_optimizer(config), trainable, shardings, self.mesh)

    def batch(self) -> NamedSharding:
        """Of token arrays `[passes, sequences, length]`."""
        rows = partition_spec(("batch", "sequence"), self.rules)
        return NamedSharding(self.mesh, PartitionSpec(None, *rows))

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
