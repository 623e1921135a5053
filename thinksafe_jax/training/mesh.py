"""Where training's arrays lie on a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from thinksafe_jax.models import LoraConfig
from thinksafe_jax.sharding import (
    ModelMesh,
    partition_spec,
)
from thinksafe_jax.training.batches import Batch

Tree = Any


class TrainingMesh(ModelMesh):
    """The train phase of a mesh file, for one model."""

    def trainable(self, lora: LoraConfig | None) -> Tree:
        """Shardings of the adapter, or of all parameters."""
        if lora is None:
            return self.param_shardings()
        return self.adapter_shardings(lora)

    def batch(self) -> NamedSharding:
        """The sharding of token arrays `[P, S, T]`: sequences are cut, passes are not."""
        rows = partition_spec(("batch", "sequence"), self.rules)
        return NamedSharding(self.mesh, PartitionSpec(None, *rows))

    def gather_vocabulary(self, params: Tree) -> Tree:
        """The parameters, embedding and LM head `[V, D]` with their width whole: once a pass.

            rules vocab -> tensor, embed -> fsdp

                    D over fsdp                       D whole
            V     | 0 0 | 1 1 |               V     | 0,1 0,1 |
            over  | 0 0 | 1 1 |    ------>    over  | 0,1 0,1 |
            ten-  | 2 2 | 3 3 |               ten-  | 2,3 2,3 |
            sor   | 2 2 | 3 3 |               sor   | 2,3 2,3 |

        The loss walks over slices of the positions and needs the head in each: left to the compiler
        it is gathered again for every slice. And of an embedding that is cut both ways the
        compiler can look up nothing without replicating what it has looked up, of every row.
        """
        spec = PartitionSpec(*partition_spec(("vocab",), self.rules), None)
        whole = NamedSharding(self.mesh, spec)
        names = [name for name in ("embed", "lm_head") if name in params]
        gathered = {n: jax.lax.with_sharding_constraint(params[n], whole) for n in names}
        return {**params, **gathered}

    def put(self, tree: Tree, shardings: Tree) -> Tree:
        """Arrays that every process has whole, on the mesh: each device takes its part.

        `shardings` is a tree like it, or one for all.
        """
        if self.mesh.is_multi_process:
            if isinstance(shardings, NamedSharding):
                return jax.tree.map(lambda leaf: _put(leaf, shardings), tree)
            return jax.tree.map(_put, tree, shardings)
        return jax.device_put(tree, shardings)

    def feed(self, batch: Batch) -> Batch:
        """One step's arrays; of several processes each hands over what its own devices hold."""
        denominator, passes = (
            self.put(x, self.replicated) for x in (batch.denominator, batch.passes)
        )
        rows = self.put(batch.rows, self.batch())
        return batch._replace(rows=rows, denominator=denominator, passes=passes)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array):
        if leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = _put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
