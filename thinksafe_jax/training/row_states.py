"""What a model makes of given rows: hidden states and likeliest tokens; nothing is trained.

A reference that reads another prompt than the student, or is another model, looks at the rows of a
step before the step, in batches of its own; the loss then takes its states as facts of the tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from thinksafe_jax.models import LoraConfig, ModelConfig, forward, head_kernel, logits
from thinksafe_jax.sharding import in_device_memory
from thinksafe_jax.training.mesh import TrainingMesh
from thinksafe_jax.training.row_batches import RowBatch, row_batches

Tree = Any
_CHUNK = 128  # positions of a row whose logits exist at once


class RowState(NamedTuple):
    """What the model makes of the tokens of a row from its start on.

    Attributes:
        states: `[n, D]`, the states that predict them.
        top: i32 `[n]`, the likeliest token at each; empty where nobody asked.
    """

    states: Float[np.ndarray, "n D"]
    top: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class RowStates:
    """A model that looks at rows.

    Attributes:
        cfg: architecture.
        params: layers stacked, where training has them, or on one device; or in the memory of the
            hosts (`in_host_memory`), then they are on the devices during a call alone.
        lora: the shape of the adapters that it may be given.
        mesh: where the parameters lie; None on one device.
    """

    cfg: ModelConfig
    params: Tree
    lora: LoraConfig | None = None
    mesh: TrainingMesh | None = None

    @cached_property
    def head(self) -> Float[Array, "V D"]:
        """The kernel of the LM head, on the devices."""
        return in_device_memory(head_kernel(self.params, self.cfg))

    def __call__(
        self,
        rows: Sequence[tuple[Sequence[int], int]],
        adapter: Tree | None = None,
        *,
        top: bool = False,
    ) -> list[RowState]:
        """The states of each row.

        Args:
            rows: token ids of prompt and response, and where the response starts.
            adapter: switched on for the pass; None is the model alone.
            top: whether the likeliest tokens are asked for, which takes the logits.
        """
        states: dict[int, RowState] = {}
        params = in_device_memory(self.params)
        shards, parts = 1, 1
        if self.mesh is not None:
            shards, parts = self.mesh.num_shards, self.mesh.sequence_shards
        for batch in row_batches([ids for ids, _ in rows], shards, parts):
            hidden, likeliest = self._run(params, batch, adapter, top)
            for place, index in enumerate(batch.members):
                ids, start = rows[index]
                window = slice(start - 1, len(ids) - 1)  # the state at t predicts t + 1
                states[index] = RowState(hidden[place, window], likeliest[place, window])
        return [states[index] for index in range(len(rows))]

    def _run(self, params: Tree, batch: RowBatch, adapter: Tree | None, top: bool) -> Any:
        arrays: Any = (batch.tokens, batch.lengths)
        if self.mesh is not None:
            arrays = self.mesh.put(arrays, self.mesh.row_sharding)
        return jax.device_get(self._compiled(params, adapter, *arrays, top=top))

    @cached_property
    def _compiled(self) -> Any:
        on_mesh: dict[str, Any] = {}
        if self.mesh is not None:
            on_mesh = {"attention": self.mesh.attention, "constrain": self.mesh.constrain}

        def run(
            params: Tree, adapter: Tree | None, tokens: jax.Array, lengths: jax.Array, *, top: bool
        ) -> Any:
            positions = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
            segments = (positions < lengths[:, None]).astype(jnp.int32)
            lora = None if adapter is None else self.lora
            arrays = (tokens, positions, segments)
            hidden = forward(params, self.cfg, *arrays, adapter=adapter, lora=lora, **on_mesh)
            nothing = jnp.zeros((len(tokens), 0), jnp.int32)
            return hidden, self._top(params, hidden) if top else nothing

        # on a mesh every process gets every row: the steps of all are made from the same numbers
        out = None if self.mesh is None else self.mesh.replicated
        return jax.jit(run, static_argnames="top", out_shardings=out)

    def _top(self, params: Tree, hidden: Float[Array, "B T D"]) -> Int[Array, "B T"]:
        """The likeliest tokens; the logits of `_CHUNK` positions of each row exist at once."""
        batch, length, width = hidden.shape
        padded = jnp.pad(hidden, ((0, 0), (0, -length % _CHUNK), (0, 0)))
        pieces = jnp.moveaxis(padded.reshape(batch, -1, _CHUNK, width), 1, 0)

        def top_of(states: jax.Array) -> jax.Array:
            return jnp.argmax(logits(params, self.cfg, states), axis=-1).astype(jnp.int32)

        top = jnp.moveaxis(jax.lax.map(top_of, pieces), 0, 1)
        return top.reshape(batch, -1)[:, :length]
