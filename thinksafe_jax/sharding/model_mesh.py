"""One model on one phase of a mesh: where its arrays lie, and what keeps them there.

FSDP cuts every kernel along the model's width. Left alone, the compiler may then cut the hidden
states the same way and gather those instead of the weights; so they are pinned to "rows cut, width
whole" after the embedding and each block, and attention runs in a `shard_map`, on each device for
its own rows and heads. Where sequences are cut too, it is given whole ones (`sequence_parallel`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int32

from thinksafe_jax.errors import ConfigError, quoted
from thinksafe_jax.models import LoraConfig, ModelConfig, causal_attention
from thinksafe_jax.sharding.phases import MeshConfig, Phase, Rules
from thinksafe_jax.sharding.rules import (
    LOGICAL_AXES,
    Tensor,
    Tensors,
    adapter_tensors,
    parameter_tensors,
    partition_spec,
    sharding_problems,
)
from thinksafe_jax.sharding.sequence_parallel import attend_by_heads
from thinksafe_jax.sharding.shardings import (
    build_mesh,
    map_optimizer_state,
    replica_meshes,
    sharding_tree,
)

Tree = Any


@dataclass(frozen=True, eq=False)  # by identity, so that its methods can be static to a jit
class ModelMesh:
    """A model, its devices as a mesh, and the rule table that says how its arrays lie there.

    The one type by which a mesh is handed down: to the sampler, to guards, to training. `Phase` is
    what the file says; this is what it means for one model on devices that exist.

    Attributes:
        mesh: the devices; its axes are those of the phase.
        phase: divided for the model; its rules name the mesh's axes.
        cuts_sequences: whether rules may cut the tokens of a row, which only training can.
    """

    cuts_sequences: ClassVar[bool] = False

    cfg: ModelConfig
    mesh: Mesh
    phase: Phase

    @classmethod
    def of_phase(cls, phase: Phase, cfg: ModelConfig, devices: Sequence[Any] | None = None) -> Self:
        """A phase of a mesh file for one model.

        Args:
            devices: default all of them, over all processes.

        Raises:
            ConfigError: it does not fit the model, or asks for more devices.
        """
        phase = phase.for_model(cfg)
        cls._require_fit(cfg, phase)
        return cls(cfg, build_mesh(phase, devices), phase)

    @classmethod
    def for_generation(cls, config: MeshConfig, cfg: ModelConfig) -> Self:
        """This process's part of the generate phase: its own replicas on its own devices.

        Raises:
            ConfigError: also where the replicas do not divide over the processes.
        """
        phase = config.generate.of_host(jax.process_count())
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
        whole = dict.fromkeys(LOGICAL_AXES, ())
        cut = dict.fromkeys(("heads", "vocab", "mlp"), ("tensor",))
        rules = {**whole, **cut, "batch": ("replica",), "kv_heads": ("kv",)}
        axes = {"replica": replicas, "tensor": tensor}
        phase = Phase(axes, {"tensor": ("kv", "group")}, rules)
        return cls.of_phase(phase, cfg, jax.local_devices() if devices is None else devices)

    @property
    def rules(self) -> Rules:
        """The rule table: logical axis -> mesh axes."""
        return self.phase.rules

    @property
    def num_shards(self) -> int:
        """Parts into which the rows of a forward pass are cut."""
        return self.phase.num_shards("batch")

    @property
    def sequence_shards(self) -> int:
        """Parts into which the tokens of each row are cut."""
        return self.phase.num_shards("sequence")

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def row_sharding(self) -> NamedSharding:
        """Sharding of arrays `[B, ...]`, a row for each sequence; B is a multiple of num_shards."""
        return NamedSharding(self.mesh, PartitionSpec(self.rules["batch"] or None))

    def param_shardings(self, layout: str = "stacked") -> Tree:
        """Shardings of the model's parameters, as `load_params` takes them.

        Args:
            layout: "stacked" for `[L, ...]` layers, "unstacked" for a tuple with a dict per layer
                (`unstack_layers`), where a rule for `layers` has no effect.
        """
        return self._sharding_tree(parameter_tensors(self.cfg), layout)

    def shardings_like(self, params: Tree) -> Tree:
        """Shardings of these parameters, be their layers stacked or apart."""
        return self.param_shardings(
            "unstacked" if isinstance(params["layers"], tuple) else "stacked"
        )

    def adapter_shardings(self, lora: LoraConfig, layout: str = "stacked") -> Tree:
        """Shardings of the adapter's weights: a lies as its kernel's inputs, b as its outputs.

        Args:
            layout: as `param_shardings` has it.

        Raises:
            ConfigError: the rules do not fit the adapter.
        """
        self._require_fit(self.cfg, self.phase, lora)
        return self._sharding_tree(adapter_tensors(self.cfg, lora), layout)

    def _sharding_tree(self, tensors: Tensors, layout: str) -> Tree:
        if layout == "stacked":
            return sharding_tree(tensors, self.mesh, self.rules)
        if layout != "unstacked":
            raise ConfigError(f"layout {quoted(layout)}: expected stacked or unstacked")
        layer = {p: Tensor(t.shape[1:], t.axes[1:]) for p, t in tensors.items() if p[0] == "layers"}
        outer = {path: tensor for path, tensor in tensors.items() if path[0] != "layers"}
        layers = (sharding_tree(layer, self.mesh, self.rules)["layers"],) * self.cfg.num_layers
        return {**sharding_tree(outer, self.mesh, self.rules), "layers": layers}

    def optimizer_shardings(
        self, optimizer: optax.GradientTransformation, trainable: Tree, shardings: Tree
    ) -> Tree:
        """Shardings of the optimiser's state: its moments lie as what they belong to.

        Args:
            trainable: the arrays in training, or their ShapeDtypeStructs.
            shardings: their shardings.
        """

        def sharding_of(_leaf: jax.ShapeDtypeStruct, sharding: NamedSharding | None) -> Any:
            return sharding or self.replicated

        return map_optimizer_state(optimizer, trainable, shardings, sharding_of)

    def replicas(self) -> list[Self]:
        """A mesh for each replica, on which rows are not cut: what independent samplers run on.

        Replicas need no collective; in one program each would wait for the slowest at every step.
        """
        phase, meshes = self.phase.of_replica(), replica_meshes(self.mesh, self.rules["batch"])
        return [replace(self, mesh=mesh, phase=phase) for mesh in meshes]

    def constrain(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Pins hidden states: rows are cut, the model's width is whole.

        B over fsdp           weights [V, D], D over fsdp too

        | 0 |   | . . . . |   pinned: the weights are gathered, for each layer
        | 1 |   | . . . . |   not pinned: the states may be cut like the weights, and
        | 2 |   | . . . . |   moved at every product
        """
        rows = partition_spec(("batch", "sequence"), self.rules)
        sharding = NamedSharding(self.mesh, PartitionSpec(*rows, None))
        return jax.lax.with_sharding_constraint(hidden, sharding)

    def attention(
        self,
        q: Float[Array, "B T N H"],
        k: Float[Array, "B T K H"],
        v: Float[Array, "B T K H"],
        segment_ids: Int32[Array, "B T"],
    ) -> Float[Array, "B T N H"]:
        """`causal_attention` of each device's own rows and heads, without any communication.

        Where tokens are cut, each device exchanges its own for whole rows of a part of its heads.
        The backward pass averages gradients over the devices that hold the same heads.
        """
        rows, tokens = (partition_spec((name,), self.rules)[0] for name in ("batch", "sequence"))
        queries, keys = (
            PartitionSpec(rows, tokens, *partition_spec((heads, "head_dim"), self.rules))
            for heads in ("heads", "kv_heads")
        )
        attend = partial(causal_attention, platform=self.mesh.devices.flat[0].platform)
        if self.sequence_shards > 1:
            attend = partial(attend_by_heads, axes=self.rules["sequence"], attend=attend)
        local = jax.shard_map(
            attend,
            mesh=self.mesh,
            in_specs=(queries, keys, keys, PartitionSpec(rows, None)),
            out_specs=queries,
            check_vma=False,  # Pallas kernels do not say how their results vary over the mesh
        )
        return local(q, k, v, segment_ids)

    @classmethod
    def _require_fit(cls, cfg: ModelConfig, phase: Phase, lora: LoraConfig | None = None) -> None:
        problems = sharding_problems(cfg, phase, lora, cuts_sequences=cls.cuts_sequences)
        if problems:
            raise ConfigError("the rules do not fit the model:\n  " + "\n  ".join(problems))
