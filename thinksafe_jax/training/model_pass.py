"""The model in one forward pass, as an objective sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from thinksafe_jax.models import LoraConfig, ModelConfig, forward, head_kernel
from thinksafe_jax.training.batches import Tokens
from thinksafe_jax.training.losses import default_chunk
from thinksafe_jax.training.mesh import TrainingMesh

Tree = Any  # nested dict of arrays
Head = dict[str, jax.Array]  # a linear map from a state to a number: kernel `[D]`, bias `[]`
HEADS = "heads"  # where they lie in what is trained


@dataclass(frozen=True)
class ModelPass:
    """Hidden states of the rows of a pass, and the head over them.

    Attributes:
        cfg: architecture.
        params: the base model, or the parameters in training; embedding and head not cut.
        adapter, lora: in training, with its shape; None where `params` are.
        rows: what the model reads, `[S, T]`.
        reference_head: of a reference that is another model, `[V, R]`.
        dropout_key: None switches the adapter's dropout off.
        remat: what the backward pass computes again.
        mesh: None on one device.
    """

    cfg: ModelConfig
    params: Tree
    adapter: Tree | None
    lora: LoraConfig | None
    rows: Tokens
    dropout_key: jax.Array | None
    remat: str
    mesh: TrainingMesh | None
    reference_head: jax.Array | None = None

    def hidden(self) -> Float[Array, "S T D"]:
        """States of the model in training, which predict the targets."""
        return self._states(
            adapter=self.adapter,
            lora=self.lora,
            dropout_key=self.dropout_key,
            remat=self.remat,
        )

    def reference(self, needed: Bool[Array, "S T"]) -> Float[Array, "S T R"]:
        """States of the reference: those that the rows bring, else the model's, adapter off.

        Zeros where no position of the pass needs them.
        """
        if (given := self.rows.facts.get("reference")) is not None:
            return given
        shape = jax.eval_shape(self._states)
        zeros: Callable[[], jax.Array] = lambda: jnp.zeros(shape.shape, shape.dtype)  # noqa: E731
        return jax.lax.cond(jnp.any(needed), self._states, zeros)

    @property
    def heads(self) -> dict[str, Head]:
        """The objective's own, by name."""
        return (self.params if self.adapter is None else self.adapter)[HEADS]

    @property
    def head(self) -> Float[Array, "V D"]:
        """The kernel of the LM head."""
        return head_kernel(self.params, self.cfg)

    @property
    def chunk(self) -> int:
        """Positions whose logits exist at once: on each device as many as on one alone."""
        shards = 1 if self.mesh is None else self.mesh.num_shards * self.mesh.sequence_shards
        return shards * default_chunk(self.rows.tokens.size // shards, self.cfg.vocab_size)

    def split_sequences(self, tree: Tree) -> Tree:
        """See `TrainingMesh.split_sequences`; as it is on one device."""
        return tree if self.mesh is None else self.mesh.split_sequences(tree)

    def join_sequences(self, tree: Tree) -> Tree:
        """`split_sequences` undone."""
        return tree if self.mesh is None else self.mesh.join_sequences(tree)

    def _states(self, **training: Any) -> jax.Array:
        arrays = (self.rows.tokens, self.rows.positions, self.rows.segments)
        if self.mesh is not None:
            training |= {"attention": self.mesh.attention, "constrain": self.mesh.constrain}
        return forward(self.params, self.cfg, *arrays, **training)
