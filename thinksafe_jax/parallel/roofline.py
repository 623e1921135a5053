"""The decode step's lower bound on a machine without compiling it, and the rate that follows."""

import math
from dataclasses import dataclass

from thinksafe_jax.models.config import ModelConfig
from thinksafe_jax.parallel.rules import Strategy
from thinksafe_jax.parallel.strategy import Topology
from thinksafe_jax.parallel.work import Bound, bound_of, decode_work


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
    strategy: Strategy,
    topology: Topology,
    rows: int,
    mean_context: int,
    itemsize: int = 2,
) -> Roofline:
    """The roofline of decode for `rows` rows per replica at a mean context of `mean_context`."""
    ways, replicas = strategy.ways("heads"), strategy.ways("batch")
    reduced = 2 * cfg.num_layers * rows * cfg.hidden_size * itemsize if ways > 1 else 0
    work = decode_work(cfg, strategy, rows, mean_context, itemsize)
    bound = bound_of(work, 2 * (ways - 1) / ways * reduced, topology)  # what a ring sends
    rate = math.floor(replicas * rows / bound.seconds)
    return Roofline(rows, replicas, bound, rate, reduced)
