"""The programs of a sweep's rows, compiled, and the columns that follow from them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.planning.abstract_programs import (
    Program,
    Sampler,
    decode_program,
    prefill_program,
    train_program,
)
from thinksafe_jax.planning.collectives import CollectiveTraffic, total
from thinksafe_jax.planning.compiler import Compiled, compile_program
from thinksafe_jax.planning.devices import compile_devices, is_simulated
from thinksafe_jax.planning.measure import measured_seconds
from thinksafe_jax.planning.roofline import (
    Bound,
    Cost,
    bound_of,
    decode_cost,
    prefill_cost,
    train_cost,
)
from thinksafe_jax.planning.sweep_settings import Combination, Row, SweepSettings
from thinksafe_jax.sharding import Topology


@dataclass(frozen=True)
class Part:
    """One program of a row, compiled.

    Attributes:
        name: of its traces and of its text.
        cost: of one call on one device.
        calls: one after the other.
    """

    name: str
    program: Program
    compiled: Compiled
    cost: Cost
    calls: int = 1

    def bound(self, topology: Topology) -> Bound:
        """Of one call."""
        sent = total(self.compiled.collectives)
        return bound_of(self.cost, sent.wire_bytes, topology, sent.dcn_bytes)

    def seconds(self, topology: Topology) -> float:
        """Of all calls, at least."""
        return self.calls * self.bound(topology).seconds


def sampling_part(
    combination: Combination, settings: SweepSettings, kind: str, slots: int, pool_tokens: int
) -> Part:
    """A program of one replica's sampler.

    Args:
        kind: decode, drafted or prefill.
        slots: rows decoded together.
        pool_tokens: of the replica's cache.
    """
    cfg, mesh, sizes = combination.cfg, combination.mesh, settings.sizes
    phase = mesh.generate.for_model(cfg)
    drafts = settings.drafts if kind == "drafted" else 0
    simulated = not settings.measure and is_simulated(mesh.topology)
    sampler = Sampler(
        slots, pool_tokens, sizes.context, settings.prompt,
        simulated=simulated, drafts=drafts, kv_dtype=sizes.kv_dtype,
    )  # fmt: skip
    if kind == "prefill":
        make = prefill_program
        cost = prefill_cost(cfg, phase, settings.prompt, sizes.dtype, sizes.cache_dtype)
    else:
        make = decode_program
        cost = decode_cost(
            cfg, phase, slots, sizes.mean_context, sizes.dtype, sizes.cache_dtype, 1 + drafts
        )
    devices = _devices(combination, settings, phase.of_replica().devices)

    def build(dtype: str) -> Program:
        return make(cfg, mesh.generate, devices, sampler, dtype)

    return _compiled(combination.name_of(kind), build, cost, settings)


def training_part(combination: Combination, settings: SweepSettings, objective: str = "ce") -> Part:
    """A pass of the training step over the whole mesh.

    Args:
        objective: as `TrainingConfig.objective`; of rollouts there is a reference, too.
    """
    cfg, mesh = combination.cfg, combination.mesh
    config = _training(settings, cfg.max_position_embeddings, objective)
    devices = _devices(combination, settings, None)
    phase = mesh.train.for_model(cfg)
    rows = max(1, config.micro_batch_size // phase.num_shards("batch"))
    cost = train_cost(
        cfg, phase, rows, config.max_length, settings.sizes.dtype,
        remat=config.remat != "none", reference=objective != "ce",
    )  # fmt: skip

    def build(dtype: str) -> Program:
        return train_program(cfg, mesh.train, devices, config, dtype)

    return _compiled(combination.name_of("train"), build, cost, settings)


def _training(settings: SweepSettings, longest: int, objective: str) -> TrainingConfig:
    training = settings.sizes.training
    length = min(training.max_length, longest)
    return replace(training, max_length=length, objective=objective)


def _devices(
    combination: Combination, settings: SweepSettings, number: int | None
) -> Sequence[Any]:
    if settings.measure:
        return jax.devices()
    return compile_devices(combination.mesh.topology, number)


def _compiled(
    name: str, build: Callable[[str], Program], cost: Cost, settings: SweepSettings
) -> Part:
    dtype = settings.sizes.dtype
    return Part(name, build(dtype), compile_program(build, dtype, name), cost)


def memory_columns(arguments: int, temporaries: int, topology: Topology) -> Row:
    """Bytes of a device, and whether it has room for them."""
    peak = arguments + temporaries
    return {
        "argument_bytes": arguments,
        "temporary_bytes": temporaries,
        "peak_bytes": peak,
        "fits": peak <= topology.hbm_bytes,
    }


def work_columns(parts: Sequence[Part], topology: Topology) -> Row:
    """What all calls of the parts compute, read and send, and the bounds of that."""
    kinds = sorted({kind for part in parts for kind in part.compiled.collectives})
    traffic = {
        kind: sum(
            (
                part.compiled.collectives[kind].times(part.calls)
                for part in parts
                if kind in part.compiled.collectives
            ),
            CollectiveTraffic(),
        )
        for kind in kinds
    }
    sent = total(traffic)
    bounds = [(part.calls, part.bound(topology)) for part in parts]
    return {
        "flops": sum(part.calls * part.cost.flops for part in parts),
        "compiler_flops": sum(part.calls * part.compiled.flops for part in parts),
        "read_bytes": sum(part.calls * part.cost.bytes for part in parts),
        "collective_count": sent.count,
        "collective_bytes": sent.bytes,
        "wire_bytes": sent.wire_bytes,
        "dcn_bytes": sent.dcn_bytes,
        "collectives": {kind: asdict(t) for kind, t in traffic.items()},
        "compute_seconds": sum(calls * bound.compute for calls, bound in bounds),
        "memory_seconds": sum(calls * bound.memory for calls, bound in bounds),
        "network_seconds": sum(calls * bound.network for calls, bound in bounds),
        "dcn_seconds": sum(calls * bound.dcn for calls, bound in bounds),
        "compile_seconds": round(sum(part.compiled.seconds for part in parts), 2),
    }


def measured_columns(parts: Sequence[Part], settings: SweepSettings, tokens: int) -> Row:
    """The time of all calls on the devices at hand, and tokens a second.

    Args:
        tokens: of all calls, over all devices.
    """
    seconds = 0.0
    for part in parts:
        trace = re.sub(r"[^\w.-]+", "-", part.name)
        time = measured_seconds(part.program, settings.sizes.mean_context, trace)
        seconds += part.calls * time
    return {"measured_seconds": seconds, "measured_tokens_per_second": tokens / seconds}
