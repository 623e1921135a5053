"""How the sampler's programs lie on devices: slots and pages over one axis, heads over another.

Matrix products are left to the compiler, which follows the weights: two all-reduces a layer.
Attention over the pages and the draw of the next token are islands (`jax.shard_map`): each device
works on its own heads and its own part of the vocabulary, and what crosses is written out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from thinksafe_jax.models import FEW_ROWS, Contract, contract, contract_few_rows
from thinksafe_jax.sharding import ModelMesh

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Mesh axes of the sampler's tensors; without a mesh everything is on one device.

    Attributes:
        mesh: the devices of one program.
        slots: mesh axes over which slots and pages are cut; page numbers are each shard's own.
        heads, kv_heads, vocab: mesh axes over which each is cut.
    """

    mesh: Mesh | None = None
    slots: Axes = ()
    heads: Axes = ()
    kv_heads: Axes = ()
    vocab: Axes = ()

    @staticmethod
    def of(mesh: ModelMesh) -> "Layout":
        """The layout that a mesh's rule table gives."""
        names = ("batch", "heads", "kv_heads", "vocab")
        return Layout(mesh.mesh, *(tuple(mesh.rules[name]) for name in names))

    @property
    def shards(self) -> int:
        """Parts into which slots and pages are cut."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape[name] for name in self.slots)

    @property
    def rows(self) -> PartitionSpec:
        """`[slots, ...]`."""
        return PartitionSpec(self.slots or None)

    @property
    def queries(self) -> PartitionSpec:
        """`[slots, heads, head_dim]`."""
        return PartitionSpec(self.slots or None, self.heads or None, None)

    @property
    def keys(self) -> PartitionSpec:
        """`[slots, kv_heads, head_dim]`."""
        return PartitionSpec(self.slots or None, self.kv_heads or None, None)

    @property
    def pool(self) -> PartitionSpec:
        """`[kv_heads, pages, page_size, head_dim]`."""
        return PartitionSpec(self.kv_heads or None, self.slots or None, None, None)

    @property
    def logits(self) -> PartitionSpec:
        """`[slots, vocab]`."""
        return PartitionSpec(self.slots or None, self.vocab or None)

    @property
    def vocab_axis(self) -> Axes | None:
        """What `filters.sample` reduces over; None where the vocabulary is whole."""
        ways = math.prod(self.mesh.shape[n] for n in self.vocab) if self.mesh is not None else 1
        return self.vocab if ways > 1 else None

    def product(self, rows: int) -> Contract:
        """How that many rows are multiplied with the weights."""
        alone = self.mesh is None and jax.default_backend() == "cpu"
        return contract_few_rows if alone and rows <= FEW_ROWS else contract

    def widths(self, slots: int) -> list[int]:
        """Numbers of slots that a window may have, `slots` first; the text is the same in each.

        A step of an accelerator reads the weights, however many rows there are. On a CPU each row
        costs, and `contract_few_rows` gives a row the same bits beside any others, but not alone.
        """
        found = [slots]
        while self.product(slots) is contract_few_rows and found[-1] > 2:
            found.append(-(-found[-1] // 2))
        return found

    def island(self, fn: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`fn` on each device's own part."""
        if self.mesh is None:
            return fn
        return jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def put(self, tree: Any, spec: PartitionSpec = PartitionSpec()) -> Any:
        """Host arrays on the devices, by default whole on each."""
        return jax.device_put(tree, self.sharding(spec))

    def keep(self, tree: Any, spec: PartitionSpec) -> Any:
        """Inside a program: arrays that stay cut as `spec` says."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.sharding(spec))

    def sharding(self, spec: PartitionSpec) -> Sharding:
        """Always a named place: an array that may lie anywhere is compiled for separately."""
        if self.mesh is None:
            return SingleDeviceSharding(jax.local_devices()[0])
        return NamedSharding(self.mesh, spec)


ONE_DEVICE = Layout()
