"""Every parameter of the decoder, declared once.

Shape, logical axes, initialiser and Hugging Face name stand in one place; initialisation, loading,
saving, sharding and the adapter's names are all read from here. Layer parameters are declared
without their layer axis; `init_params` and the loaders stack them to `[L, ...]`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.models.config import ModelConfig

Params = dict[str, Any]  # nested dict of arrays; params["layers"] is stacked over layers


@dataclass(frozen=True)
class Param:
    """One parameter (of one layer, where `hf_name` has `{i}`).

    Attributes:
        shape: our shape; kernels are `[out..., in...]`, as Hugging Face stores them, so that
            loading and saving only split and join axes (and a device's slice is a file's slice).
        axes: one logical axis name per dimension; the rule tables in configs/mesh map them.
        hf_name: key in the Hugging Face checkpoint.
        in_ndim: how many trailing dimensions a kernel contracts; 0 for what is no kernel.
        init: normal | zeros | ones
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    hf_name: str
    in_ndim: int = 0
    init: str = "normal"

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the checkpoint."""
        if self.in_ndim:
            outputs = len(self.shape) - self.in_ndim
            return (prod(self.shape[:outputs]), prod(self.shape[outputs:]))
        return self.shape if self.axes[0] == "vocab" else (prod(self.shape),)


def declare(cfg: ModelConfig) -> dict[str, Any]:
    """The parameter tree of `cfg` with a `Param` at every leaf."""
    hidden, vocab = cfg.hidden_size, cfg.vocab_size
    tree: dict[str, Any] = {
        "embed": Param((vocab, hidden), ("vocab", "embed"), "model.embed_tokens.weight"),
        "layers": _declare_layer(cfg),
        "final_norm": Param((hidden,), ("norm",), "model.norm.weight", init="ones"),
    }
    if not cfg.tie_word_embeddings:
        tree["lm_head"] = Param((vocab, hidden), ("vocab", "embed"), "lm_head.weight", 1)
    return tree


def _declare_layer(cfg: ModelConfig) -> dict[str, Any]:
    d, f, h = cfg.hidden_size, cfg.intermediate_size, cfg.head_dim
    n, k = cfg.num_heads, cfg.num_kv_heads
    layer: dict[str, Any] = {
        "input_norm": _norm(d, "input_layernorm"),
        "post_attention_norm": _norm(d, "post_attention_layernorm"),
        "q_proj": _linear("self_attn.q_proj", (n, h, d), ("heads", "head_dim", "embed"), 1),
        "k_proj": _linear("self_attn.k_proj", (k, h, d), ("kv_heads", "head_dim", "embed"), 1),
        "v_proj": _linear("self_attn.v_proj", (k, h, d), ("kv_heads", "head_dim", "embed"), 1),
        "o_proj": _linear("self_attn.o_proj", (d, n, h), ("embed", "heads", "head_dim"), 2),
        "gate_proj": _linear("mlp.gate_proj", (f, d), ("mlp", "embed"), 1),
        "up_proj": _linear("mlp.up_proj", (f, d), ("mlp", "embed"), 1),
        "down_proj": _linear("mlp.down_proj", (d, f), ("embed", "mlp"), 1),
    }
    biased = ["q_proj", "k_proj", "v_proj"] * cfg.qkv_bias + ["o_proj"] * cfg.o_bias
    biased += ["gate_proj", "up_proj", "down_proj"] * cfg.mlp_bias
    for name in biased:
        kernel: Param = layer[name]["kernel"]
        outputs = len(kernel.shape) - kernel.in_ndim
        layer[name]["bias"] = Param(
            kernel.shape[:outputs],
            kernel.axes[:outputs],
            kernel.hf_name.replace(".weight", ".bias"),
            init="zeros",
        )
    if cfg.qk_norm:
        layer["q_norm"] = _norm(h, "self_attn.q_norm")
        layer["k_norm"] = _norm(h, "self_attn.k_norm")
    return layer


def _norm(size: int, name: str) -> Param:
    return Param((size,), ("norm",), f"model.layers.{{i}}.{name}.weight", init="ones")


def _linear(
    name: str, shape: tuple[int, ...], axes: tuple[str, ...], in_ndim: int
) -> dict[str, Param]:
    return {"kernel": Param(shape, axes, f"model.layers.{{i}}.{name}.weight", in_ndim)}


def walk(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, leaf) of a nested dictionary, in the order of declaration."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from walk(value, (*path, name))
        else:
            yield (*path, name), value


def map_params(fn: Callable[[tuple[str, ...], Param], Any], cfg: ModelConfig) -> Params:
    """A tree like `declare(cfg)` with `fn(path, param)` at every leaf."""
    out: Params = {}
    for path, param in walk(declare(cfg)):
        _set(out, path, fn(path, param))
    return out


def stacked_shape(path: tuple[str, ...], param: Param, cfg: ModelConfig) -> tuple[int, ...]:
    """Shape of the leaf with its layer axis, where it has one."""
    return (cfg.num_layers, *param.shape) if path[0] == "layers" else param.shape


def abstract_params(cfg: ModelConfig, dtype: jnp.dtype) -> Params:
    """Shapes and dtypes of the whole tree; nothing is allocated."""
    return map_params(lambda path, p: jax.ShapeDtypeStruct(stacked_shape(path, p, cfg), dtype), cfg)


def parameter_count(cfg: ModelConfig) -> int:
    """Number of parameters, tied embeddings counted once."""
    return sum(prod(stacked_shape(path, p, cfg)) for path, p in walk(declare(cfg)))


def init_params(
    cfg: ModelConfig, key: jax.Array, dtype: jnp.dtype = jnp.float32, scale: float = 0.02
) -> Params:
    """Random parameters: normal(0, scale) kernels and embeddings, unit norms, zero biases."""
    keys = {path: jax.random.fold_in(key, n) for n, (path, _) in enumerate(walk(declare(cfg)))}

    def init(path: tuple[str, ...], param: Param) -> jax.Array:
        shape = stacked_shape(path, param, cfg)
        if param.init == "ones":
            return jnp.ones(shape, dtype)
        if param.init == "zeros":
            return jnp.zeros(shape, dtype)
        return (scale * jax.random.normal(keys[path], shape, jnp.float32)).astype(dtype)

    return map_params(init, cfg)


def unstack_layers(params: Params) -> Params:
    """The same parameters with `layers` as a tuple, one dict per layer: the form decode runs on.

    A decode step inside a loop would copy each layer out of a stacked array at every step. Of a
    tree that nobody else holds, each stacked array is freed before the next one is cut.
    """
    depth = jax.tree.leaves(params["layers"])[0].shape[0]
    stacked, params = dict(walk(params["layers"])), {**params, "layers": None}
    layers: tuple[Params, ...] = tuple({} for _ in range(depth))
    for path in list(stacked):
        leaf = stacked.pop(path)
        for number, layer in enumerate(layers):
            _set(layer, path, jax.block_until_ready(leaf[number]))
    return {**params, "layers": layers}


def stack_layers(params: Params) -> Params:
    """`unstack_layers` undone, one stacked array after the other in the same way."""
    apart = [dict(walk(layer)) for layer in params["layers"]]
    params = {**params, "layers": None}
    layers: Params = {}
    for path in list(apart[0]):
        _set(layers, path, jax.block_until_ready(jnp.stack([layer.pop(path) for layer in apart])))
    return {**params, "layers": layers}


def _set(tree: Params, path: tuple[str, ...], leaf: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf
