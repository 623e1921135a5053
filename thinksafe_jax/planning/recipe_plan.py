"""What a recipe needs on a mesh, stage by stage, and settings near it that fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from thinksafe_jax.config import SAMPLED, GuardModel, Recipe
from thinksafe_jax.data import Prompt, read_prompts
from thinksafe_jax.errors import ThinkSafeError
from thinksafe_jax.planning.evaluation_plan import EvaluationPlan, plan_evaluation
from thinksafe_jax.planning.guard_plan import plan_guard
from thinksafe_jax.planning.loop_plan import as_dataset, plan_loop, rollouts_of
from thinksafe_jax.planning.sample_plan import plan_sample
from thinksafe_jax.planning.stage_plans import Assumed, PlanRequest, StagePlan, plan_load
from thinksafe_jax.planning.train_plan import plan_train
from thinksafe_jax.planning.workload import guards_of
from thinksafe_jax.sharding import MeshConfig

_LETTERS, _TEMPLATE = 4, 20  # of a token of English; tokens of the chat template
_TRIES = 4  # other settings that are compiled in search of some that fit


@dataclass(frozen=True)
class RecipePlan:
    """All stages of a recipe on a mesh."""

    recipe: str
    mesh: MeshConfig
    prompts: int
    counted: bool  # or assumed, where the sources cannot be read here
    assumed: Assumed
    stages: list[StagePlan]
    evaluation: EvaluationPlan = field(default_factory=lambda: EvaluationPlan(None))
    hours: float = 0.0  # of all that the recipe does, one after the other
    trial: bool = False

    @property
    def fits(self) -> bool:
        return all(stage.fits(self.mesh) for stage in self.stages)


def plan_recipe(
    recipe: Recipe,
    mesh: MeshConfig,
    assumed: Assumed | None = None,
    *,
    by_letters: bool = False,
) -> RecipePlan:
    """The plan of every stage; `StagePlan.nearest` is filled in where one does not fit.

    Args:
        by_letters: prompts that are here say how long they are, instead of `assumed`.

    Raises:
        ConfigError: a model is not to be found.
        EnvironmentFault: too few simulated devices, as JAX has started before.
    """
    assumed = assumed or Assumed()
    texts = _prompts_here(recipe)
    prompts = min(len(texts), recipe.synthesis.limit or len(texts)) or None
    if texts and by_letters:
        assumed = replace(assumed, prompt_tokens=_tokens_by_letters(texts))
    # where the sources are not here, the recipe's limit still holds
    most = min(assumed.prompts, recipe.synthesis.limit or assumed.prompts)
    asked, on_policy = prompts or most, bool(recipe.on_policy.method)
    rows = rollouts_of(recipe, asked) if on_policy else asked
    request = PlanRequest(as_dataset(recipe) if on_policy else recipe, mesh, rows, assumed)
    request.devices()  # before JAX starts: how many are simulated is asked for once
    stages = [plan_load(request), _searched(plan_sample, request, _other_samplers)]
    guards = _guards_of_training(recipe)
    stages += [
        plan_guard(guard, request, guards[:n] + guards[n + 1 :]) for n, guard in enumerate(guards)
    ]
    stages.append(_searched(plan_train, request, _other_trainings))
    if on_policy:
        stages.append(plan_loop(request, stages[1:]))
    evaluation = plan_evaluation(request, stages)
    hours = _hours_of_stages(recipe, stages) + evaluation.hours
    counted = prompts is not None
    return RecipePlan(
        recipe.name, mesh, asked, counted, assumed, stages, evaluation, hours, recipe.trial
    )


def _hours_of_stages(recipe: Recipe, stages: Sequence[StagePlan]) -> float:
    """Of what a run does: fixed responses are neither drawn nor judged, and a loop has its own."""
    if recipe.on_policy.method:
        return next(stage.hours for stage in stages if stage.name == "loop")
    sampled = recipe.synthesis.method in SAMPLED
    return sum(stage.hours for stage in stages if sampled or stage.name not in ("sample", "guard"))


def _prompts_here(recipe: Recipe) -> list[Prompt]:
    """The prompts of the synthesis; none where their files are not here, or only on the Hub."""
    try:
        return read_prompts(recipe.synthesis.prompts, require_label=True).prompts
    except (ThinkSafeError, OSError):
        return []


def _tokens_by_letters(prompts: Sequence[Prompt]) -> int:
    """Tokens of a prompt on average, no tokenizer asked."""
    letters = sum(len(prompt.text) for prompt in prompts) / len(prompts)
    return _TEMPLATE + round(letters / _LETTERS)


def _guards_of_training(recipe: Recipe) -> list[GuardModel]:
    """Those on the mesh that judge what is trained on: neither phrases nor servers.

    They judge every sample; of a loop what has a reward.
    """
    if recipe.on_policy.method not in ("", "grpo"):
        return []
    return [g for g in guards_of(recipe.guard) if not g.is_matcher and not g.url]


def _searched(
    plan: Callable[[PlanRequest], StagePlan],
    request: PlanRequest,
    others: Callable[[PlanRequest], Iterator[tuple[list[str], PlanRequest]]],
) -> StagePlan:
    """The stage; where it does not fit, with the first of some other settings that do.

    Args:
        others: other settings, each of which needs less memory than the one before it.
    """
    stage = plan(request)
    if stage.fits(request.mesh) or stage.nearest:
        return stage
    tries = list(islice(others(request), _TRIES))
    # the last first: where that does not fit, none does, and the others need not be compiled
    if not tries or not plan(tries[-1][1]).fits(request.mesh):
        return stage
    for changes, other in tries[:-1]:
        if plan(other).fits(request.mesh):
            return replace(stage, nearest=changes)
    return replace(stage, nearest=tries[-1][0])


def _other_samplers(request: PlanRequest) -> Iterator[tuple[list[str], PlanRequest]]:
    """Fewer slots."""
    slots = request.recipe.engine.slots
    while slots > 1:
        slots //= 2
        engine = replace(request.recipe.engine, slots=slots)
        yield (
            [f"engine.slots={slots}"],
            replace(request, recipe=replace(request.recipe, engine=engine)),
        )


def _other_trainings(request: PlanRequest) -> Iterator[tuple[list[str], PlanRequest]]:
    """One sequence at a time, everything computed again, then shorter sequences."""
    changes: dict[str, Any] = {}
    config = request.recipe.training
    wanted = [("micro_batch_size", 1), ("remat", "layer")]
    wanted += [("max_length", config.max_length // 2), ("max_length", config.max_length // 4)]
    for name, value in wanted:
        if getattr(config, name) == value:
            continue
        changes[name] = value
        training = replace(config, **changes)
        named = [f"training.{key}={item}" for key, item in changes.items()]
        yield named, replace(request, recipe=replace(request.recipe, training=training))
