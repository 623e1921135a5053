"""The decode step's lower bound on a machine, and the tokens per second that follow from it."""

import math
from dataclasses import dataclass

from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.parallel.rules import Strategy
from thinksafe_jax.parallel.strategy import Topology
from thinksafe_jax.parallel.work import decode_work

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


def decode_roofline(
    cfg: ModelConfig,
    strategy: Strategy,
    topology: Topology,
    rows: int,
    mean_context: int,
    itemsize: int = 2,
) -> Roofline:
    """The roofline of decode for `rows` rows per replica at a mean context of `mean_context`."""
    work = decode_work(cfg, strategy, rows, mean_context, itemsize)
    memory, compute = work.bytes / topology.hbm_bandwidth, work.flops / topology.peak_flops
    ways = strategy.ways("heads")
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
