"""What lies between the phases of a sweep's tables: both layouts held at once, and what is moved.

An on-policy run samples and trains on the same devices: its base lies in both layouts, and the
adapter goes from one to the other at every step. See `base_layouts`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from thinksafe_jax.planning.base_layouts import BaseLayouts, base_layouts
from thinksafe_jax.planning.memory import USABLE, phase_budget
from thinksafe_jax.planning.sweep_settings import Combination, SweepSettings


def between_rows(
    combinations: Iterable[Combination], settings: SweepSettings
) -> Iterator[dict[str, Any]]:
    """A row for each model, mesh and table that both phases admit.

    Its bytes are those of the device with the most: `base_layouts` says which; `held_bytes` are
    weights in both layouts, adapter, gradients and optimiser; `pool_tokens` what a replica's cache
    has room for beside them, before any program's temporaries.
    """
    seen = set()
    for combination in combinations:
        key = combination.model, combination.mesh.name, combination.table
        if key in seen or combination.problem:
            continue
        seen.add(key)
        yield from _row(combination, settings)


def _row(combination: Combination, settings: SweepSettings) -> Iterator[dict[str, Any]]:
    cfg, mesh = combination.cfg, combination.mesh
    sizes = settings.sizes.capped(cfg)
    train = phase_budget("train", mesh.train, cfg, mesh.topology, sizes)
    generate = phase_budget("generate", mesh.generate, cfg, mesh.topology, sizes)
    if train.problems or generate.problems or sizes.lora is None:
        return
    layouts = base_layouts(cfg, mesh, sizes.lora, sizes.dtype)
    held = sum(train.bytes.values()) + layouts.moved
    left = max(0, int(USABLE * mesh.topology.hbm_bytes) - held)
    yield {
        "model": combination.model,
        "mesh": mesh.name,
        "table": combination.table,
        **asdict(layouts),
        "held_bytes": held,
        "pool_tokens": left // generate.kv_bytes_per_token,
    }


def between_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """One line a row, for people."""
    names = BaseLayouts.__dataclass_fields__
    for row in rows:
        layouts = BaseLayouts(**{name: row[name] for name in names})
        yield (
            f"{row['model']} on {row['mesh']}, {row['table']}: {layouts}; both layouts and the "
            f"training state {row['held_bytes'] / 1e9:.1f} GB, beside them room for "
            f"{row['pool_tokens']:,} tokens a replica"
        )
