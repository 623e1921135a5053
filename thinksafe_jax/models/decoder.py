"""ONE decoder for Qwen3, Qwen2, Llama and Mistral, as pure functions over the declared parameters.

`block` is the layer that training, prefill, the guard and decode all run; what differs between
them is only how attention finds its keys, which the caller passes in as `attend`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from thinksafe_jax.models.attention import Attention, causal_attention
from thinksafe_jax.models.attention_request import SAVED_NAMES
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.lora import Adapter, LayerAdapter, LoraConfig, split_layers
from thinksafe_jax.models.matmul import Matmul, plain_matmul
from thinksafe_jax.models.params import Params
from thinksafe_jax.models.rope import apply_rope, rope_tables

# q [B, T, N, H], k and v [B, T, K, H] -> [B, T, N, H]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


# what a layer keeps for the backward pass; the more it keeps, the less is computed twice
REMAT: dict[str, Callable[..., bool] | None] = {
    "none": None,  # everything
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # outputs of projections
    "attention": jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES),
    "layer": jax.checkpoint_policies.nothing_saveable,  # only its input
}


def rms_norm(
    x: Float[Array, "*B D"], weight: Float[Array, " D"], eps: float
) -> Float[Array, "*B D"]:
    """Root-mean-square norm over the last axis, computed in float32 (HF `LlamaRMSNorm`)."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * weight.reshape((1,) * (x.ndim - 1) + weight.shape)


def linear(
    x: jax.Array,
    weights: dict[str, jax.Array],
    in_ndim: int = 1,
    matmul: Matmul = plain_matmul,
) -> jax.Array:
    """`x` `[..., in...]` through a kernel `[out..., in...]`, plus the bias where there is one."""
    y = matmul(x, weights["kernel"], in_ndim)
    if "bias" in weights:
        bias = weights["bias"]
        y = y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
    return y


def block(
    weights: Params,
    cfg: ModelConfig,
    x: Float[Array, "B T D"],
    rope: tuple[jax.Array, jax.Array],
    attend: Attend,
    adapter: LayerAdapter | None = None,
    matmul: Matmul = plain_matmul,
) -> Float[Array, "B T D"]:
    """One transformer layer.

    Args:
        weights: of this layer, without the axis of layers.
        rope: cos and sin `[B, T, H / 2]`, see `rope_tables`.
        attend: finds the keys and attends: this is where training, prefill and decode differ.
    """

    def project(name: str, value: jax.Array, in_ndim: int = 1) -> jax.Array:
        y = linear(value, weights[name], in_ndim, matmul)
        delta = adapter and adapter.delta(name, value, in_ndim, matmul)
        if delta is None:
            return y
        # before the adapter adds anything, y is what it is without one, to the bit: left alone,
        # XLA:CPU of JAX 0.12 computes it otherwise once a bias and a delta are added at a time
        return (jax.lax.optimization_barrier(y) if "bias" in weights[name] else y) + delta

    with jax.named_scope("attention"):
        h = rms_norm(x, weights["input_norm"], cfg.rms_norm_eps)
        q, k, v = project("q_proj", h), project("k_proj", h), project("v_proj", h)
        if cfg.qk_norm:
            q = rms_norm(q, weights["q_norm"], cfg.rms_norm_eps)
            k = rms_norm(k, weights["k_norm"], cfg.rms_norm_eps)
        out = attend(apply_rope(q, *rope), apply_rope(k, *rope), v)
        x = x + project("o_proj", out, 2)
    with jax.named_scope("mlp"):
        h = rms_norm(x, weights["post_attention_norm"], cfg.rms_norm_eps)
        return x + project(
            "down_proj", jax.nn.silu(project("gate_proj", h)) * project("up_proj", h)
        )


def forward(
    params: Params,
    cfg: ModelConfig,
    tokens: Int[Array | np.ndarray, "B T"],
    positions: Int[Array | np.ndarray, "B T"],
    segment_ids: Int[Array | np.ndarray, "B T"],
    *,
    adapter: Adapter | None = None,
    lora: LoraConfig | None = None,
    dropout_key: jax.Array | None = None,
    remat: str = "none",
    attention: Attention = causal_attention,
    constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Float[Array, "B T D"]:
    """Hidden states after the final norm, for training and scoring.

    Many parameters: what differs between training, guard and scoring is told here and nowhere else.

    Args:
        params: layers stacked `[L, ...]`: scanned, so compile time does not grow with depth; or
            apart (`unstack_layers`), as a sampler holds them, so that it may share them.
        tokens, positions, segment_ids: segment 0 is padding. Positions restart in each packed row;
            tokens attend within their segment only.
        adapter, lora: LoRA weights and their shape.
        dropout_key: LoRA dropout is on when given.
        remat: what the backward pass computes again, a name of REMAT.
        attention: as `causal_attention`.
        constrain: of the hidden states after the embedding and each block, on a mesh.
    """
    x = constrain(params["embed"][tokens])
    rope = rope_tables(cfg, positions)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention(q, k, v, jnp.asarray(segment_ids))

    def body(x: jax.Array, layer: tuple[Params, Any, jax.Array]) -> tuple[jax.Array, None]:
        weights, adapter_weights, index = layer
        of_layer = None
        if adapter_weights is not None:
            assert lora is not None, "an adapter comes with its LoraConfig"
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            of_layer = LayerAdapter(adapter_weights, lora, key)
        return constrain(block(weights, cfg, x, rope, attend, of_layer)), None

    if remat != "none":  # in a scan the compiler sees no second computation to leave out
        apart = isinstance(params["layers"], tuple)
        body = jax.checkpoint(body, prevent_cse=apart, policy=REMAT[remat])
    x = _run_layers(body, x, params["layers"], (adapter or {}).get("layers"))
    return rms_norm(x, params["final_norm"], cfg.rms_norm_eps)


def _run_layers(body: Callable, x: jax.Array, layers: Any, adapters: Any | None) -> jax.Array:
    """Hidden states `[B, T, D]` behind the last layer: stacked ones are scanned, others unrolled.

    Args:
        body: (states, (weights, adapter weights or None, number)) -> (states, None), of a layer.
        layers: `[L, ...]` or a tuple of L.
        adapters: `[L, ...]`, or None.
    """
    if not isinstance(layers, tuple):
        depth = jax.tree.leaves(layers)[0].shape[0]
        return jax.lax.scan(body, x, (layers, adapters, jnp.arange(depth)))[0]
    apart = (None,) * len(layers) if adapters is None else split_layers(adapters)
    for number, (weights, adapter) in enumerate(zip(layers, apart, strict=True)):
        x, _ = body(x, (weights, adapter, jnp.int32(number)))
    return x


def head_kernel(params: Params, cfg: ModelConfig) -> Float[Array, "V D"]:
    """The LM head; the embedding itself where the two are tied."""
    return params["embed"] if cfg.tie_word_embeddings else params["lm_head"]


def logits(
    params: Params, cfg: ModelConfig, hidden: Float[Array, "*B D"], matmul: Matmul = plain_matmul
) -> Float32[Array, "*B V"]:
    """float32 logits of hidden states."""
    return matmul(hidden, head_kernel(params, cfg), 1, jnp.dtype("float32"))
