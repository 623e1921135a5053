"""Where training's arrays lie on a mesh."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.models import LoraConfig
from thinksafe_jax.sharding import (
    ModelMesh,
    partition_spec,
)
from thinksafe_jax.training.batches import Batch

Tree = Any


class TrainingMesh(ModelMesh):
    """The train phase of a mesh file, for one model."""

    cuts_sequences: ClassVar[bool] = True

    def trainable(self, lora: LoraConfig | None) -> Tree:
        """Shardings of the adapter, or of all parameters."""
        if lora is None:
            return self.param_shardings()
        return self.adapter_shardings(lora)

    def batch(self) -> NamedSharding:
        """The sharding of token arrays `[P, S, T]`: all but passes are cut."""
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

    def split_sequences(self, tree: Tree) -> Tree:
        """Arrays `[S, T, ...]` as `[S n, T / n, ...]`: each part of a sequence as a row of its own.

        What works on positions alone may then go through the tokens of a row one after the other,
        while each of the n devices that share a sequence stays with its own. Nothing is moved, so
        the parts come in the order of devices:

            device 0 | a0 | device 1 | a1 |            device 0 | a0 |
                     | b0 |          | b1 |   ------>           | b0 |
                                               device 1 | a1 |
                                                        | b1 |
        """
        parts, shards = self.sequence_shards, self.num_shards
        rows = PartitionSpec((*self.rules["batch"], *self.rules["sequence"]))

        def split(x: jax.Array) -> jax.Array:
            count, length = x.shape[:2]
            x = x.reshape(shards, count // shards, parts, length // parts, *x.shape[2:])
            x = x.swapaxes(1, 2).reshape(count * parts, length // parts, *x.shape[4:])
            return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, rows))

        return tree if parts == 1 else jax.tree.map(split, tree)

    def join_sequences(self, tree: Tree) -> Tree:
        """`split_sequences` undone."""
        parts, shards = self.sequence_shards, self.num_shards
        spec = partition_spec(("batch", "sequence"), self.rules)

        def join(x: jax.Array) -> jax.Array:
            count, length = x.shape[0] // parts, x.shape[1] * parts
            x = x.reshape(shards, parts, count // shards, *x.shape[1:])
            x = x.swapaxes(1, 2).reshape(count, length, *x.shape[4:])
            return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

        return tree if parts == 1 else jax.tree.map(join, tree)

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
        """One step's arrays; of several processes each hands over what its own devices hold.

        Raises:
            ConfigError: the length of the sequences does not divide over the devices.
        """
        length, parts = batch.rows.tokens.shape[-1], self.sequence_shards
        if length % parts:
            raise ConfigError(
                f"sequences of {length:,} tokens do not divide over {parts} devices (the rule of "
                f"sequence is {', '.join(self.rules['sequence'])}); pack them to a multiple of "
                f"{parts}"
            )
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
