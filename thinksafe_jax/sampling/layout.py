"""How the sampler's programs lie on the devices of one tensor-parallel group.

Matrix products are left to the compiler, which follows the weights: two all-reduces a layer.
Attention over the pages and the draw of the next token are islands (`jax.shard_map`): each device
works on its own heads and its own part of the vocabulary, and what crosses is written out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Mesh axes of the sampler's tensors; without a mesh everything is on one device.

    Attributes:
        mesh: devices of one replica (`parallel.replica_meshes`).
        heads, kv_heads, vocab: mesh axes over which each is cut.
    """

    mesh: Mesh | None = None
    heads: Axes = ()
    kv_heads: Axes = ()
    vocab: Axes = ()

    @staticmethod
    def of(mesh: Mesh, rules: Mapping[str, Sequence[str]]) -> "Layout":
        """The layout that a rule table (`parallel.Strategy.rules`) gives."""
        return Layout(mesh, *(tuple(rules[name]) for name in ("heads", "kv_heads", "vocab")))

    @property
    def queries(self) -> PartitionSpec:
        """`[rows, heads, head_dim]`."""
        return PartitionSpec(None, self.heads or None, None)

    @property
    def keys(self) -> PartitionSpec:
        """`[rows, kv_heads, head_dim]`."""
        return PartitionSpec(None, self.kv_heads or None, None)

    @property
    def pool(self) -> PartitionSpec:
        """`[pages, page_size, kv_heads, head_dim]`; pages belong to the whole replica."""
        return PartitionSpec(None, None, self.kv_heads or None, None)

    @property
    def logits(self) -> PartitionSpec:
        """`[rows, vocab]`."""
        return PartitionSpec(None, self.vocab or None)

    @property
    def vocab_axis(self) -> Axes | None:
        """What `filters.sample` reduces over."""
        return self.vocab if self.mesh is not None and self.vocab else None

    def island(self, fn: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`fn` on each device's own part."""
        if self.mesh is None:
            return fn
        return jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def put(self, tree: Any) -> Any:
        """Host arrays on every device of the group."""
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def sharding(self, spec: PartitionSpec) -> NamedSharding | None:
        return None if self.mesh is None else NamedSharding(self.mesh, spec)


ONE_DEVICE = Layout()
EVERYWHERE = PartitionSpec()
