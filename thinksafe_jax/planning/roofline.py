"""What a call of each program must compute and read at least, counted from the rule table.

Compilers count a loop's body once whatever its number of turns, so FLOPs are counted here, from
each device's own shards. A tensor that no rule cuts is computed by every device and counts for
every one.
"""

import dataclasses
import math
from dataclasses import dataclass

from thinksafe_jax.models import ModelConfig
from thinksafe_jax.sharding import Phase, Topology, parameter_tensors

# S / (interconnect / 2) is as if all links of a chip carried the message, each one way. A ring on
# one axis of a torus has two of the four links of a v5e or v6e, and two of the six of a v5p.
BOUND = "t >= max(F / flops, M / bandwidth, S / (interconnect / 2)), all links of a chip in use"
FORMULAS = {
    "decode": "F = B (2 P + 4 L N h ctx / n), M = W + B ctx kv",
    "prefill": "F = T (2 P' + 2 L N h T / n), M = W' + T kv",
    "guard": "F = R T (2 P' + 2 L N h T / n), M = W'",
    "train": "F = R T (2 a P' + 4 head + 2 b L N h T / n), M = a W' + 2 W_head",
}
SYMBOLS = (
    "per device: F FLOPs, M bytes read, S bytes sent on a ring; P weights (W bytes) that are "
    "multiplied, P' those of the layers;\n"
    "B rows at a context of ctx, T tokens a row, R rows; L layers of N heads of h over n devices, "
    "kv cache bytes a token;\n"
    "a products of each layer weight: forward, backward, one more where it is computed again, one "
    "more where it is trained; b likewise of attention"
)


@dataclass(frozen=True)
class Work:
    """Of one call on one device: floating-point operations, and bytes read from its memory."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Bound:
    """Lower bound of one call, as `BOUND` says; seconds.

    Attributes:
        compute, memory, network: each alone, lower bounds all three.
        limit: the name of the largest.
    """

    compute: float
    memory: float
    network: float
    limit: str

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.network)


def bound_of(work: Work, wire_bytes: float, topology: Topology) -> Bound:
    """The bound on a machine whose work, memory and network overlap completely."""
    parts = {
        "compute": work.flops / topology.peak_flops,
        "memory": work.bytes / topology.hbm_bandwidth,
        "network": wire_bytes / (topology.interconnect_bandwidth / 2),
    }
    return Bound(**parts, limit=max(parts, key=lambda name: parts[name]))


def kv_bytes_per_device(cfg: ModelConfig, phase: Phase, itemsize: int) -> int:
    """Cache bytes that one token takes on each device of its replica."""
    heads = cfg.num_kv_heads // phase.num_shards("kv_heads")
    return 2 * cfg.num_layers * heads * cfg.head_dim * itemsize


def decode_work(cfg: ModelConfig, phase: Phase, rows: int, context: float, itemsize: int) -> Work:
    """Of one step of a replica with `rows` rows at a mean context of `context` tokens."""
    layers, head = _multiplied(cfg, phase)
    attention = 2 * _scores(cfg, phase) * context
    cache = rows * context * kv_bytes_per_device(cfg, phase, itemsize)
    read = (layers + head) * itemsize
    return Work(rows * (2 * (layers + head) + attention), read + cache)


def prefill_work(cfg: ModelConfig, phase: Phase, tokens: int, itemsize: int) -> Work:
    """Of one prompt, which needs no head."""
    work = guard_work(cfg, phase, 1, tokens, itemsize)
    cache = tokens * kv_bytes_per_device(cfg, phase, itemsize)
    return Work(work.flops, work.bytes + cache)


def guard_work(cfg: ModelConfig, phase: Phase, rows: int, tokens: int, itemsize: int) -> Work:
    """Of one forward pass over a device's own `rows`; the head sees a few positions only."""
    layers, _ = _multiplied(cfg, phase)
    attention = _scores(cfg, phase) * tokens  # half of the square
    return Work(rows * tokens * (2 * layers + attention), layers * itemsize)


def train_work(
    cfg: ModelConfig,
    phase: Phase,
    rows: int,
    tokens: int,
    itemsize: int,
    *,
    again: bool = True,
    full: bool = False,
) -> Work:
    """Of one forward and backward pass over a device's own `rows`; the adapter's part is left out.

    Args:
        again: layers are computed again for the backward pass (remat).
        full: the weights themselves are trained.
    """
    rows_cut = set(phase.rules["batch"])  # weights cut along them are gathered first
    rules = {k: tuple(n for n in v if n not in rows_cut) for k, v in phase.rules.items()}
    layers, head = _multiplied(cfg, dataclasses.replace(phase, rules=rules))
    products = 2 + again + full
    attention = (3.5 + again) * _scores(cfg, phase) * tokens
    flops = rows * tokens * (2 * products * layers + 2 * (2 + full) * head + attention)
    return Work(flops, (products * layers + 2 * head) * itemsize)


def _multiplied(cfg: ModelConfig, phase: Phase) -> tuple[int, int]:
    """Weights of the layers and of the head that each device multiplies with."""
    tensors = parameter_tensors(cfg)
    head = tensors["embed",] if cfg.tie_word_embeddings else tensors["lm_head",]
    layers = sum(t.shard_elements(phase) for p, t in tensors.items() if p[0] == "layers")
    return layers, head.shard_elements(phase)


def _scores(cfg: ModelConfig, phase: Phase) -> float:
    """FLOPs of one query against one key and its value, halved: 2 L N h / n."""
    return 2 * cfg.num_layers * cfg.num_heads * cfg.head_dim / phase.num_shards("heads")


@dataclass(frozen=True)
class Roofline:
    """Lower bound of one decode step.

    Attributes:
        rows: rows decoded together in one replica.
        replicas: replicas of the mesh.
        bound: of one step; its network part is that of `all_reduce_bytes` on a ring.
        tokens_per_second: of all replicas together.
        all_reduce_bytes: operands of the two all-reduces per layer, per step and device.
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
    itemsize: int = 2,
) -> Roofline:
    """The roofline of decode for `rows` rows per replica at a mean context of `mean_context`."""
    ways, replicas = phase.num_shards("heads"), phase.num_shards("batch")
    reduced = 2 * cfg.num_layers * rows * cfg.hidden_size * itemsize if ways > 1 else 0
    work = decode_work(cfg, phase, rows, mean_context, itemsize)
    bound = bound_of(work, 2 * (ways - 1) / ways * reduced, topology)  # what a ring sends
    rate = math.floor(replicas * rows / bound.seconds)
    return Roofline(rows, replicas, bound, rate, reduced)
