"""How the sampler's programs lie on devices: slots and pages over one axis, heads over another.

Matrix products are left to the compiler, which follows the weights: two all-reduces a layer.
Attention over the pages and the draw of the next token are shard_map regions: each device works on
its own heads and its own part of the vocabulary, and what crosses is written out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from thinksafe_jax.models import FEW_ROWS, Matmul, few_rows_matmul, plain_matmul
from thinksafe_jax.sharding import ModelMesh

Axes = tuple[str, ...]
_NARROWER_UP_TO = 64  # slots up to which a window may have fewer of them


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
    def of(mesh: ModelMesh | None) -> "Layout":
        """The layout that a mesh's rule table gives; None is one device."""
        if mesh is None:
            return ONE_DEVICE
        names = ("batch", "heads", "kv_heads", "vocab")
        return Layout(mesh.mesh, *(tuple(mesh.rules[name]) for name in names))

    def num_shards(self, axes: Axes) -> int:
        """Parts into which what lies over `axes` is cut."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape[name] for name in axes)

    @property
    def shards(self) -> int:
        """Parts into which slots and pages are cut."""
        return self.num_shards(self.slots)

    @property
    def rows(self) -> PartitionSpec:
        """Spec of `[slots, ...]`."""
        return PartitionSpec(self.slots or None)

    @property
    def queries(self) -> PartitionSpec:
        """Spec of `[slots, heads, head_dim]`."""
        return PartitionSpec(self.slots or None, self.heads or None, None)

    @property
    def keys(self) -> PartitionSpec:
        """Spec of `[slots, kv_heads, head_dim]`."""
        return PartitionSpec(self.slots or None, self.kv_heads or None, None)

    @property
    def logits(self) -> PartitionSpec:
        """Spec of `[slots, vocab]`."""
        return PartitionSpec(self.slots or None, self.vocab or None)

    @property
    def vocab_axis(self) -> Axes | None:
        """What `next_token.sample` reduces over; None where the vocabulary is whole."""
        return self.vocab if self.num_shards(self.vocab) > 1 else None

    @property
    def platform(self) -> str:
        """What programs are compiled for, which may not be here: cpu, gpu or tpu."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    def matmul(self, rows: int) -> Matmul:
        """How that many rows are multiplied with the weights."""
        return few_rows_matmul if self._alone_on_cpu and rows <= FEW_ROWS else plain_matmul

    @property
    def _alone_on_cpu(self) -> bool:
        return self.mesh is None and jax.default_backend() == "cpu"

    def window_sizes(self, slots: int) -> list[int]:
        """Numbers of slots that a window may decode, `slots` first; each gives the same text.

        A step of an accelerator reads the weights, however many rows there are. On a CPU each row
        costs, and a matmul of few rows gives a row the same bits beside any others, but not alone.
        """
        sizes = [slots]
        narrower = self._alone_on_cpu and slots <= _NARROWER_UP_TO
        while narrower and sizes[-1] > 2:
            sizes.append(-(-sizes[-1] // 2))
        return sizes

    def shard_map(self, fn: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`fn` on each device's own part; `fn` itself on one device."""
        if self.mesh is None:
            return fn
        return jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def put(self, tree: Any, spec: PartitionSpec = PartitionSpec()) -> Any:
        """Host arrays on the devices, by default whole on each."""
        return jax.device_put(tree, self.sharding(spec))

    def constrain(self, tree: Any, spec: PartitionSpec) -> Any:
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
