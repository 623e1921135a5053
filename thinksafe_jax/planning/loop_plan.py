"""An on-policy recipe as stages: what its rollouts, its guard and its steps would be as a dataset.

The loop trains on each rollout once. So its parts are planned as stages of a recipe that samples
as many rows and trains on them for one epoch. What the loop adds is that sampler, guard, teacher
and trainer are on the devices at the same time. Where a server draws the rollouts there is no
sampler; what the server takes is not planned.
"""

from collections.abc import Sequence
from dataclasses import replace

from thinksafe_jax.config import Recipe
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import phase_budget
from thinksafe_jax.planning.stage_plans import PlanRequest, StagePlan, start_plan

_POOL = "kv pool"  # as the plan of sampling calls it
_SERVED = (
    "drawn by the server of on_policy.server, whose memory and hours are not planned; the stage "
    "sample is what they would be here"
)


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
    recipe, mesh = request.recipe, request.mesh
    sampler, others = parts[0], parts[1:]
    held = {f"{part.name} {part.model}": part.peak for part in others} | _teacher(request)
    steps = f"{request.rows // recipe.training.batch_size:,} steps of "
    facts = [f"{steps}{recipe.training.batch_size} rollouts, {_SERVED}"]
    problems: list[str] = []
    if not recipe.on_policy.server.url:
        others, pool = parts, sampler.bytes.get(_POOL, 0)
        held = {f"{sampler.name} {sampler.model}": sampler.peak - pool, **held}
        held[_POOL] = max(0, min(pool, int(mesh.topology.hbm_bytes) - sum(held.values())))
        tokens, context = _pool_tokens(request, held[_POOL])
        problems = [] if tokens >= context else [_no_room(tokens, context)]
        facts = [
            f"{steps}{recipe.training.batch_size} rollouts; the base lies in the "
            "layouts of sampler and trainer, an adapter goes from one to the other each step",
            f"beside guard and trainer a pool of {tokens:,} tokens is left: set "
            f"engine.pool_tokens={tokens // 1000 * 1000}",
        ]
    model, cfg = find_model(recipe.student.model)
    settings = request.settings(cfg, recipe.student.dtype)
    plan, _ = start_plan("loop", model, cfg, mesh.train, request, settings)
    return replace(
        plan,
        bytes=held,
        problems=problems,
        facts=[*facts, "the hours are those of the parts one after the other, on the same devices"],
        hours=sum(part.hours for part in others),
        nearest=[],
    )


def _teacher(request: PlanRequest) -> dict[str, int]:
    """The teacher's weights, which lie beside the student; {} where there is none."""
    teacher, mesh = request.recipe.on_policy.teacher, request.mesh
    if not teacher.model:
        return {}
    model, cfg = find_model(teacher.model)
    settings = request.settings(cfg, teacher.dtype)
    budget = phase_budget("generate", mesh.train, cfg, mesh.topology, settings)
    return {f"teacher {model}": budget.bytes.get("weights", 0)}


def _pool_tokens(request: PlanRequest, pool: int) -> tuple[int, int]:
    """(tokens that a KV pool of so many bytes holds, tokens of the longest row)."""
    student, mesh = request.recipe.student, request.mesh
    _, cfg = find_model(student.model)
    settings = request.settings(cfg, student.dtype)
    budget = phase_budget("generate", mesh.generate, cfg, mesh.topology, settings)
    token = budget.kv_bytes_per_token
    return pool // token if token else 0, settings.context


def _no_room(tokens: int, context: int) -> str:
    return (
        f"beside guard, teacher and trainer the KV pool would hold {tokens:,} tokens, one longest "
        f"row has {context:,}"
    )
