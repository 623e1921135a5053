"""A step of the on-policy loop as a row of the sweep: decode and training in turn.

    rollouts:  decode steps of all replicas   ->   adapter   ->   passes over the rollouts
               beside the training state                          beside sampler and pool

Both layouts of the base, the training state and the cache are on the devices at the same time. So
the cache has what the training program leaves, and a replica decodes no more rows than the step has
for it. What is not counted: prompts (a few tokens beside the responses), guards and rewards.
"""

from dataclasses import replace

from thinksafe_jax.planning.base_layouts import base_layouts
from thinksafe_jax.planning.memory import USABLE, filled_rows, phase_budget
from thinksafe_jax.planning.sweep_programs import (
    Part,
    measured_columns,
    memory_columns,
    sampling_part,
    training_part,
    work_columns,
)
from thinksafe_jax.planning.sweep_settings import Combination, Row, SweepSettings


def on_policy_figures(combination: Combination, settings: SweepSettings) -> Row:
    """The columns of a step of `settings.rollouts` rollouts, or why there are none.

    Beside those of other rows: `sampling_seconds`, `adapter_seconds` and `training_seconds`, bounds
    whose sum is `roofline_seconds` (`limit` names the largest); `busy_seconds`, the same without
    messages; `slots`, rows that a replica decodes together.
    """
    cfg, mesh, sizes = combination.cfg, combination.mesh, settings.sizes
    train = phase_budget("train", mesh.train, cfg, mesh.topology, sizes)
    generate = phase_budget("generate", mesh.generate, cfg, mesh.topology, sizes)
    if problems := [*train.problems, *generate.problems]:
        return {"status": "refused", "reason": "; ".join(problems)}
    assert sizes.lora is not None  # a sweep trains an adapter
    layouts = base_layouts(cfg, mesh, sizes.lora, sizes.dtype)
    training = training_part(combination, settings, objective="rollout-streams")
    used = training.compiled.peak + layouts.moved
    room = (int(USABLE * mesh.topology.hbm_bytes) - used) // generate.kv_bytes_per_token
    replicas = mesh.generate.for_model(cfg).num_shards("batch")
    slots, pool_tokens = _cache(settings, replicas, room)
    if pool_tokens < sizes.context:
        return {
            "status": "too large",
            "reason": f"training and both layouts of {used / 1e9:.1f} GB a device leave no room "
            f"for a row of {sizes.context:,} tokens",
        }
    sampling = sampling_part(combination, settings, "decode", slots, pool_tokens)
    sampling = replace(sampling, calls=_decode_steps(settings, replicas * slots))
    training = replace(training, calls=_passes(settings, training))
    arguments = training.compiled.arguments + layouts.moved
    arguments += pool_tokens * generate.kv_bytes_per_token
    row = _columns(combination, settings, (sampling, training), arguments)
    return {**row, "slots": slots, **_seconds(row, layouts.adapter_seconds or 0.0)}


def _columns(
    combination: Combination, settings: SweepSettings, parts: tuple[Part, Part], arguments: int
) -> Row:
    """The columns of all rows, the bounds of both parts among them.

    Args:
        parts: sampling and training.
        arguments: bytes of a device beside temporaries.
    """
    topology, (sampling, training) = combination.mesh.topology, parts
    tokens = settings.rollouts * settings.rollout_tokens[1]
    temporaries = max(part.compiled.temporaries for part in parts)
    bounds = [(part.calls, part.bound(topology)) for part in parts]
    row = {
        "status": "ok",
        "compiler": training.compiled.compiler,
        "programs": 1,
        "devices": training.program.devices,
        "rows": settings.rollouts,
        "tokens": tokens,
        **memory_columns(arguments, temporaries, topology),
        **work_columns(parts, topology),
        "busy_seconds": sum(calls * max(b.compute, b.memory) for calls, b in bounds),
        "sampling_seconds": sampling.seconds(topology),
        "training_seconds": training.seconds(topology),
    }
    if settings.measure:
        row |= measured_columns(parts, settings, tokens)
    return row


def _seconds(row: Row, adapter: float) -> Row:
    """The bound of a step: one part after the other."""
    seconds = {
        "sampling": row["sampling_seconds"],
        "adapter": adapter,
        "training": row["training_seconds"],
    }
    whole = sum(seconds.values())
    return {
        "adapter_seconds": adapter,
        "roofline_seconds": whole,
        "limit": max(seconds, key=lambda name: seconds[name]),
        "tokens_per_second": row["tokens"] / whole,
    }


def _cache(settings: SweepSettings, replicas: int, room: int) -> tuple[int, int]:
    """Rows that a replica decodes together, and tokens of its cache.

    Args:
        room: tokens that there is room for.
    """
    wanted = settings.slots or -(-settings.rollouts // replicas)
    if room >= wanted * settings.sizes.context:
        return wanted, wanted * settings.sizes.context
    return max(1, min(wanted, filled_rows(room, settings.sizes.mean_context))), room


def _decode_steps(settings: SweepSettings, slots: int) -> int:
    """Steps of a replica until all rollouts are drawn; `slots` of all replicas together."""
    response = settings.rollout_tokens[1]
    return max(response, -(-settings.rollouts * response // slots))


def _passes(settings: SweepSettings, training: Part) -> int:
    """Passes over all rollouts, packed without gaps."""
    return -(-settings.rollouts * sum(settings.rollout_tokens) // training.program.tokens)
