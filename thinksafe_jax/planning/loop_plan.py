"""An on-policy recipe as stages: what its rollouts, its guard and its steps would be as a dataset.

The loop trains on each rollout once. So its parts are planned as stages of a recipe that samples
as many rows and trains on them for one epoch. What the loop adds is that sampler, guard, teacher
and trainer are on the devices at the same time.
"""

from collections.abc import Sequence
from dataclasses import replace

from thinksafe_jax.config import Recipe
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import phase_budget
from thinksafe_jax.planning.stage_plans import PlanRequest, StagePlan, start_plan

_POOL = "kv pool"  # as the plan of sampling calls it


def rollouts_of(recipe: Recipe, prompts: int) -> int:
    """How many rollouts an on-policy run draws.

    Args:
        prompts: that it asks in an epoch.
    """
    cfg, training = recipe.on_policy, recipe.training
    if cfg.steps is not None:
        return cfg.steps * training.batch_size
    return training.epochs * prompts * cfg.samples


def as_dataset(recipe: Recipe) -> Recipe:
    """The recipe whose stages cost what the parts of the loop cost."""
    synthesis = replace(recipe.synthesis, sampling=recipe.on_policy.sampling)
    training = replace(recipe.training, objective="rollout-streams", epochs=1)
    return replace(recipe, synthesis=synthesis, training=training)


def plan_loop(request: PlanRequest, parts: Sequence[StagePlan]) -> StagePlan:
    """What is on a device at the same time, over a whole step of the loop.

    Args:
        parts: the plans of sampling, guards and training.

    Returns:
        A stage whose hours are those of its parts one after the other.
    """
    recipe, mesh, topology = request.recipe, request.mesh, request.mesh.topology
    held = {f"{part.name} {part.model}": part.peak for part in parts}
    pool = parts[0].bytes.get(_POOL, 0)
    held[f"{parts[0].name} {parts[0].model}"] -= pool
    teacher = recipe.on_policy.teacher
    if teacher.model:
        model, cfg = find_model(teacher.model)
        settings = request.settings(cfg, teacher.dtype)
        budget = phase_budget("generate", mesh.train, cfg, topology, settings)
        held[f"teacher {model}"] = budget.bytes.get("weights", 0)
    held[_POOL] = max(0, min(pool, int(topology.hbm_bytes) - sum(held.values())))
    model, cfg = find_model(recipe.student.model)
    settings = request.settings(cfg, recipe.student.dtype)
    token = phase_budget("generate", mesh.generate, cfg, topology, settings).kv_bytes_per_token
    tokens = held[_POOL] // token if token else 0
    steps = request.rows // recipe.training.batch_size
    plan, _ = start_plan("loop", model, cfg, mesh.train, request, settings)
    return replace(
        plan,
        bytes=held,
        problems=[] if tokens >= settings.context else [_no_room(tokens, settings.context)],
        facts=[
            f"{steps:,} steps of {recipe.training.batch_size} rollouts; the base lies in the "
            "layouts of sampler and trainer, an adapter goes from one to the other each step",
            f"beside guard and trainer a pool of {tokens:,} tokens is left: set "
            f"engine.pool_tokens={tokens // 1000 * 1000}",
            "the hours are those of the parts one after the other, on the same devices",
        ],
        hours=sum(part.hours for part in parts),
        nearest=[],
    )


def _no_room(tokens: int, context: int) -> str:
    return (
        f"beside guard, teacher and trainer the KV pool would hold {tokens:,} tokens, one longest "
        f"row has {context:,}"
    )
