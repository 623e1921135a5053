"""The decode step's lower bound on a machine, and the tokens per second that follow from it."""

import math
from dataclasses import dataclass

from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.parallel.rules import Strategy, parameter_tensors
from thinksafe_jax.parallel.strategy import Topology

FORMULA = (
    "t = max((W + B ctx kv) / bandwidth, B (2 P + 4 L N h ctx / n) / flops); "
    "tokens/s = replicas B / t\n"
    "per device: W bytes and P weights read a step (layers and head), kv cache bytes a token;\n"
    "B rows and ctx tokens of mean context in a replica of n devices, L layers of N heads of h"
)


@dataclass(frozen=True)
class Roofline:
    """Lower bound of one decode step; rates are per second.

    Attributes:
        rows: rows decoded together in one replica (B).
        replicas: replicas of the mesh.
        step_seconds: the bound, collectives not counted.
        bound: "memory" or "compute", whichever limits.
        tokens_per_second: of all replicas together.
        all_reduce_bytes: operands of the two all-reduces per layer, per step and device.
        all_reduce_seconds: their time on a ring, where nothing hides it.
    """

    rows: int
    replicas: int
    step_seconds: float
    bound: str
    tokens_per_second: float
    all_reduce_bytes: int
    all_reduce_seconds: float


def kv_bytes_per_device(cfg: ModelConfig, strategy: Strategy, itemsize: int) -> int:
    """Cache bytes that one token takes on each device of its replica."""
    heads = cfg.num_kv_heads // strategy.ways("kv_heads")
    return 2 * cfg.num_layers * heads * cfg.head_dim * itemsize


def decode_roofline(
    cfg: ModelConfig,
    strategy: Strategy,
    topology: Topology,
    rows: int,
    mean_context: int,
    itemsize: int = 2,
) -> Roofline:
    """The roofline of decode for `rows` rows per replica at a mean context of `mean_context`."""
    read = sum(
        tensor.shard_elements(strategy)
        for path, tensor in parameter_tensors(cfg).items()
        if path != ("embed",) or cfg.tie_word_embeddings  # otherwise only looked up
    )
    ways = strategy.ways("heads")
    kv = kv_bytes_per_device(cfg, strategy, itemsize)
    attention = 4 * cfg.num_layers * cfg.num_heads * cfg.head_dim * mean_context / ways
    memory = (read * itemsize + rows * mean_context * kv) / topology.hbm_bandwidth
    compute = rows * (2 * read + attention) / topology.peak_flops
    replicas = strategy.ways("batch")
    step = max(memory, compute)
    reduced = 2 * cfg.num_layers * rows * cfg.hidden_size * itemsize if ways > 1 else 0
    # a ring sends and receives 2 (n - 1) / n of the operand, half of the bandwidth each way
    one_way = topology.interconnect_bandwidth / 2
    return Roofline(
        rows=rows,
        replicas=replicas,
        step_seconds=step,
        bound="memory" if memory >= compute else "compute",
        tokens_per_second=math.floor(replicas * rows / step),
        all_reduce_bytes=reduced,
        all_reduce_seconds=2 * (ways - 1) / ways * reduced / one_way,
    )
