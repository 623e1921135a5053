"""The roofline of each program: what a call must compute, read and send at least.

Compilers count a loop's body once whatever its number of turns, so FLOPs are counted here, from
each device's own shards. A tensor that no rule cuts is computed by every device and counts for
every one.
"""

import dataclasses
import math
from dataclasses import dataclass

import jax.numpy as jnp

from thinksafe_jax.models import ModelConfig
from thinksafe_jax.sampling import KvCache
from thinksafe_jax.sharding import (
    Phase,
    Topology,
    attention_heads,
    head_tensor,
    parameter_tensors,
)

# S / (interconnect / 2) is as if all links of a chip carried the message, each one way. A ring on
# one axis of a torus has two of the four links of a v5e or v6e, and two of the six of a v5p.
BOUND = "t >= max(F / flops, M / bandwidth, S / (interconnect / 2)), all links of a chip in use"
DCN_BOUND = "and t >= D / dcn_bandwidth: D bytes sent to other slices, a message's own part only"
FORMULAS = {
    "decode": "F = B (2 P + 4 L N h ctx / n), M = W + B ctx kv",
    "drafted": "F times K + 1 positions, M as decode; tokens/s if every draft is taken",
    "prefill": "F = T (2 P' + 2 L N h T / n), M = W' + T kv",
    "guard": "F = R T (2 P' + 2 L N h T / n), M = W'",
    "train": "F = R T ((2 a P' + 2 d head) / c + 2 b L N h T / n), M = a W' + 2 W_head",
    "on-policy": "t = decode steps + adapter / (interconnect / 2) + passes over the rollouts",
}
SYMBOLS = (
    "per device: F FLOPs, M bytes read, S bytes sent on a ring; P weights (W bytes) that are "
    "multiplied, P' those of the layers;\n"
    "B rows at a context of ctx, T tokens a row, R rows; L layers of N heads of h over n devices, "
    "kv cache bytes a token;\n"
    "a products of each layer weight: forward, backward, one more each where it is computed again, "
    "trained, or read without the adapter; b likewise of attention; d likewise of the head, which "
    "is never computed again; c devices that share the tokens of a row"
)


@dataclass(frozen=True)
class Cost:
    """What one call takes on one device: floating-point operations, bytes read from its memory."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Bound:
    """Lower bound of one call, as `BOUND` says; seconds.

    Attributes:
        compute, memory, network: each alone, lower bounds all three.
        dcn: what crosses slices, over the data-centre network, alone; a lower bound as well.
        limit: the name of the largest.
    """

    compute: float
    memory: float
    network: float
    limit: str
    dcn: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.network, self.dcn)


def bound_of(cost: Cost, wire_bytes: float, topology: Topology, dcn_bytes: float = 0.0) -> Bound:
    """The bound on a machine whose arithmetic, memory and network overlap completely.

    Args:
        wire_bytes, dcn_bytes: sent by each device within its slice and to others, see
            `CollectiveTraffic`.
    """
    parts = {
        "compute": cost.flops / topology.peak_flops,
        "memory": cost.bytes / topology.hbm_bandwidth,
        "network": wire_bytes / (topology.interconnect_bandwidth / 2),
        "dcn": dcn_bytes / topology.dcn_bandwidth if dcn_bytes else 0.0,
    }
    return Bound(**parts, limit=max(parts, key=lambda name: parts[name]))


def decode_cost(
    cfg: ModelConfig,
    phase: Phase,
    rows: int,
    context: float,
    dtype: str,
    cache_dtype: str | None = None,
    positions: int = 1,
) -> Cost:
    """Cost of one decode step of a replica.

    Args:
        phase: divided for the model, as in all functions of this file.
        rows: decoded together, at a mean context of `context` tokens.
        dtype: of the weights.
        cache_dtype: of keys and values; by default that of the weights.
        positions: of each row, with drafts; weights and cache are read once for all of them.
    """
    layers, head = _matmul_weights(cfg, phase)
    attention = 2 * _attention_flops(cfg, phase) * context
    cache = rows * context * kv_bytes_per_device(cfg, phase, cache_dtype or dtype)
    read = (layers + head) * _itemsize(dtype)
    return Cost(rows * positions * (2 * (layers + head) + attention), read + cache)


def prefill_cost(
    cfg: ModelConfig, phase: Phase, tokens: int, dtype: str, cache_dtype: str | None = None
) -> Cost:
    """Cost of one prompt, which needs no head."""
    cost = guard_cost(cfg, phase, 1, tokens, dtype)
    written = tokens * kv_bytes_per_device(cfg, phase, cache_dtype or dtype)
    return Cost(cost.flops, cost.bytes + written)


def guard_cost(cfg: ModelConfig, phase: Phase, rows: int, tokens: int, dtype: str) -> Cost:
    """Cost of one forward pass over a device's own `rows`; the head sees a few positions only."""
    layers, _ = _matmul_weights(cfg, phase)
    attention = _attention_flops(cfg, phase) * tokens  # half of the square: it is causal
    return Cost(rows * tokens * (2 * layers + attention), layers * _itemsize(dtype))


def train_cost(
    cfg: ModelConfig,
    phase: Phase,
    rows: int,
    tokens: int,
    dtype: str,
    *,
    remat: bool = True,
    full_finetune: bool = False,
    reference: bool = False,
) -> Cost:
    """Cost of a forward and backward pass over a device's own rows, without the adapter's part.

    Where the tokens of a row are cut, a device has its part of them, and whole rows of a part of
    its heads in attention, so both shrink alike.

    Args:
        dtype: of weights that are frozen; those in training are float32.
        remat: layers are computed again for the backward pass.
        full_finetune: the weights themselves are trained.
        reference: the model without its adapter reads the rows, too.
    """
    layers, head = gathered_weights(cfg, phase)
    # products of a weight: forward, backward, and as said
    passes, of_head = 2 + remat + full_finetune + reference, 2 + full_finetune + reference
    attention = (3.5 + remat + reference) * _attention_flops(cfg, phase) * tokens
    products = 2 * passes * layers + 2 * of_head * head
    flops = rows * tokens * (products / phase.num_shards("sequence") + attention)
    size = _itemsize("float32" if full_finetune else dtype)
    return Cost(flops, (passes * layers + (2 + reference) * head) * size)


def gathered_weights(cfg: ModelConfig, phase: Phase) -> tuple[int, int]:
    """Weights of the layers and of the head that a device multiplies in training with.

    Weights cut along the axes of rows and sequence are gathered first.
    """
    cuts_rows = {*phase.rules["batch"], *phase.rules["sequence"]}
    rules = {k: tuple(n for n in v if n not in cuts_rows) for k, v in phase.rules.items()}
    return _matmul_weights(cfg, dataclasses.replace(phase, rules=rules))


def kv_bytes_per_device(cfg: ModelConfig, phase: Phase, dtype: str) -> int:
    """Cache bytes that one token takes on each device of its replica."""
    return KvCache.bytes_per_token(cfg, dtype, phase.num_shards("kv_heads"))


def _itemsize(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize


def _matmul_weights(cfg: ModelConfig, phase: Phase) -> tuple[int, int]:
    """Weights of the layers and of the head that each device multiplies with."""
    tensors = parameter_tensors(cfg)
    layers = sum(t.shard_elements(phase) for p, t in tensors.items() if p[0] == "layers")
    return layers, head_tensor(cfg).shard_elements(phase)


def _attention_flops(cfg: ModelConfig, phase: Phase) -> float:
    """FLOPs of one query against one key and its value, halved: 2 L N h / n."""
    return 2 * cfg.num_layers * attention_heads(cfg, phase) * cfg.head_dim


@dataclass(frozen=True)
class Roofline:
    """Lower bound of one decode step.

    Attributes:
        rows: rows decoded together in one replica.
        replicas: replicas of the mesh.
        bound: of one step; its network part is that of `decode_sent`.
        tokens_per_second: of all replicas together.
        all_reduce_bytes: operands of the all-reduces of the layers, per step and device.
    """

    rows: int
    replicas: int
    bound: Bound
    tokens_per_second: float
    all_reduce_bytes: int


def decode_roofline(
    cfg: ModelConfig,
    phase: Phase,
    topology: Topology,
    rows: int,
    mean_context: int,
    dtype: str,
    cache_dtype: str | None = None,
) -> Roofline:
    """The roofline of decode for `rows` rows per replica at a mean context of `mean_context`.

    Args:
        dtype, cache_dtype: see `decode_cost`.
    """
    itemsize, replicas = _itemsize(dtype), phase.num_shards("batch")
    cost = decode_cost(cfg, phase, rows, mean_context, dtype, cache_dtype)
    bound = bound_of(cost, decode_sent(cfg, phase, rows, itemsize), topology)
    rate = math.floor(replicas * rows / bound.seconds)
    sums = cfg.num_layers * sum(phase.num_shards(axis) > 1 for axis in ("heads", "mlp"))
    return Roofline(rows, replicas, bound, rate, sums * rows * cfg.hidden_size * itemsize)


def decode_sent(cfg: ModelConfig, phase: Phase, rows: int, itemsize: int) -> float:
    """Bytes that a device sends in a decode step: sums over heads, MLP and the embedding's rows."""
    of_layer = ring_factor(phase, "heads") + ring_factor(phase, "mlp")
    sums = cfg.num_layers * of_layer + ring_factor(phase, "vocab")
    return rows * cfg.hidden_size * itemsize * sums


def ring_factor(phase: Phase, logical: str) -> float:
    """How many times its size a device sends of an array that is summed over an axis's parts."""
    shards = phase.num_shards(logical)
    return 2 * (shards - 1) / shards
