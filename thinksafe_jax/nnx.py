"""The decoder as a Flax NNX module: the edge for notebooks, and for other NNX code.

It holds the very arrays of `load_params`, under the same paths, as `nnx.Param`s that carry their
logical axes; what computes stays `forward`, a pure function of the plain tree. In a hot path,
`nnx.split` once, or take `model.params`.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from thinksafe_jax.models import (
    ModelConfig,
    Params,
    forward,
    init_params,
    load_config,
    logits,
    map_params,
)


class CausalLM(nnx.Module):
    """A decoder of the Qwen3, Qwen2, Llama or Mistral family.

    Example:
        model = CausalLM.from_pretrained("Qwen/Qwen3-0.6B")
        scores = model(tokens)
        graph, state = nnx.split(model)

    Args:
        cfg: the model's facts.
        params: as `init_params` and `load_params` make them; held, not copied.
    """

    def __init__(self, cfg: ModelConfig, params: Params):
        self.cfg = cfg

        def hold(path: tuple[str, ...], param: Any) -> nnx.Param:
            axes = ("layers", *param.axes) if path[0] == "layers" else param.axes
            value = params
            for name in path:
                value = value[name]
            # the mesh file, not an ambient mesh, says where the axes go
            return nnx.Param(value, logical_axes=axes, eager_sharding=False)

        for name, node in map_params(hold, cfg).items():
            setattr(self, name, nnx.data(node) if isinstance(node, dict) else node)

    @classmethod
    def from_pretrained(
        cls, name: str, *, dtype: Any = jnp.bfloat16, revision: str | None = None, **settings: Any
    ) -> "CausalLM":
        """Loads a checkpoint.

        Args:
            name: a directory, a Hub id, a bucket path or `mini:student`, see `resolve_model`.
            dtype: of the parameters; None keeps what is stored.
            revision: branch, tag or commit on the Hub.
            settings: passed on to `load_params`: `shardings`, `allow_nonfinite`.

        Raises:
            InputError: no such model, or a damaged one.
            EnvironmentFault: it cannot be fetched.
        """
        from thinksafe_jax.weights import load_params, resolve_model

        folder: Path = resolve_model(name, revision)
        cfg = load_config(folder)
        return cls(cfg, load_params(folder, cfg, dtype, **settings))

    @classmethod
    def random(cls, cfg: ModelConfig, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> "CausalLM":
        """Fresh weights, as `init_params` draws them."""
        init = jax.jit(init_params, static_argnums=(0, 2))
        return cls(cfg, init(cfg, rngs.params(), dtype))

    @property
    def params(self) -> Params:
        """The plain tree that `forward`, the sampler and the exports take; the same arrays."""

        def value(path: tuple[str, ...], _: Any) -> jax.Array:
            node: Any = getattr(self, path[0])
            for name in path[1:]:
                node = node[name]
            return node[...]

        return map_params(value, self.cfg)

    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        segment_ids: Int[Array | np.ndarray, "B T"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Next-token logits, float32.

        Args:
            tokens: ids, padded at the end.
            segment_ids: 1 where a token is real, 0 at padding; default all real.
        """
        tokens = jnp.asarray(tokens, jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        segments = jnp.ones_like(tokens) if segment_ids is None else jnp.asarray(segment_ids)
        params = self.params
        return logits(params, self.cfg, forward(params, self.cfg, tokens, positions, segments))
