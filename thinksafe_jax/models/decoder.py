"""ONE decoder for Qwen3, Qwen2, Llama and Mistral, as pure functions over the declared parameters.

`block` is the layer that training, prefill, the guard and decode all run; what differs between
them is only how attention finds its keys, which the caller passes in as `attend`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.models.attention import SAVED_NAMES, Attention, causal_attention
from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.models.lora import Adapter, LoraConfig
from thinksafe_jax.models.matmul import Contract, contract
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


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square norm over the last axis, computed in float32 (HF `LlamaRMSNorm`)."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * weight.reshape((1,) * (x.ndim - 1) + weight.shape)


def linear(
    x: jax.Array,
    weights: dict[str, jax.Array],
    in_ndim: int = 1,
    adapter: dict[str, jax.Array] | None = None,
    lora: LoraConfig | None = None,
    key: jax.Array | None = None,
    product: Contract = contract,
) -> jax.Array:
    """`x` `[..., in...]` through a kernel `[out..., in...]`, plus bias and LoRA where present."""
    y = product(x, weights["kernel"], in_ndim)
    if "bias" in weights:
        bias = weights["bias"]
        y = y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
    if adapter is None:
        return y
    assert lora is not None
    if key is not None and lora.dropout > 0:
        keep = jax.random.bernoulli(key, 1.0 - lora.dropout, x.shape)
        x = jnp.where(keep, x / (1.0 - lora.dropout), jnp.zeros_like(x))
    low_rank = contract(x, adapter["a"].astype(x.dtype), in_ndim)
    return y + lora.scale * contract(low_rank, adapter["b"].astype(x.dtype), 1)


def block(
    weights: Params,
    cfg: ModelConfig,
    x: jax.Array,
    rope: tuple[jax.Array, jax.Array],
    attend: Attend,
    adapter: dict[str, Any] | None = None,
    lora: LoraConfig | None = None,
    key: jax.Array | None = None,
    product: Contract = contract,
) -> jax.Array:
    """One transformer layer; `x` and the result are `[B, T, D]`."""

    def project(name: str, value: jax.Array, in_ndim: int = 1) -> jax.Array:
        ab = (adapter or {}).get(name)
        own = None
        if key is not None and lora is not None and ab is not None:
            own = jax.random.fold_in(key, lora.targets.index(name))
        return linear(value, weights[name], in_ndim, ab, lora, own, product)

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
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    *,
    adapter: Adapter | None = None,
    lora: LoraConfig | None = None,
    dropout_key: jax.Array | None = None,
    remat: str = "none",
    attention: Attention = causal_attention,
    constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """Hidden states after the final norm, for training and scoring.

    Args:
        params: layers stacked `[L, ...]`; scanned, so compile time does not grow with depth.
        tokens, positions, segment_ids: i32 `[B, T]`; segment 0 is padding. Positions restart in
            each packed row; tokens attend within their segment only.
        adapter, lora: LoRA weights and their shape.
        dropout_key: LoRA dropout is on when given.
        remat: what the backward pass computes again, a name of REMAT.
        attention: as `causal_attention`, which it is by default.
        constrain: applied to the hidden states after the embedding and each block; a sharding
            constraint on a mesh.

    Returns:
        `[B, T, D]` in the parameters' dtype.
    """
    x = constrain(params["embed"][tokens])
    rope = rope_tables(cfg, positions)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention(q, k, v, segment_ids)

    def body(x: jax.Array, layer: tuple[Params, Any, jax.Array]) -> tuple[jax.Array, None]:
        weights, ab, index = layer
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
        return constrain(block(weights, cfg, x, rope, attend, ab, lora, key)), None

    if remat != "none":
        body = jax.checkpoint(body, prevent_cse=False, policy=REMAT[remat])
    layers = (params["layers"], (adapter or {}).get("layers"), jnp.arange(cfg.num_layers))
    x, _ = jax.lax.scan(body, x, layers)
    return rms_norm(x, params["final_norm"], cfg.rms_norm_eps)


def head_kernel(params: Params, cfg: ModelConfig) -> jax.Array:
    """The LM head `[V, D]`; the embedding itself where the two are tied."""
    return params["embed"] if cfg.tie_word_embeddings else params["lm_head"]


def logits(
    params: Params, cfg: ModelConfig, hidden: jax.Array, product: Contract = contract
) -> jax.Array:
    """float32 logits `[..., V]` of hidden states `[..., D]`."""
    return product(hidden, head_kernel(params, cfg), 1, jnp.dtype("float32"))
