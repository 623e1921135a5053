"""What a study would take on a mesh: `thinksafe plan` of its runs, and its evaluations, summed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from thinksafe_jax.config import SAMPLED, EvaluationConfig, Recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.studies.study_file import SPLITS, Method, Study, apart_from_rates
from thinksafe_jax.studies.units import STAGES

if TYPE_CHECKING:
    from thinksafe_jax.planning import Assumed, RecipePlan
    from thinksafe_jax.sharding import MeshConfig

Planner = Callable[[Recipe], "RecipePlan"]
_FIXED_TOKENS = 32  # of a response that is one text for every prompt


@dataclass(frozen=True)
class MethodHours:
    """The runs of a method.

    Attributes:
        runs: of all settings and seeds; which setting is chosen is not known, so the dearest is
            taken for the seeds that it alone is run with. Shared samples are counted once.
        hours: stage -> hours of all runs, at the roofline's bound.
        fits: whether every stage of every setting has room.
    """

    name: str
    runs: int
    hours: dict[str, float]
    fits: bool

    @property
    def total(self) -> float:
        return sum(self.hours.values())


@dataclass(frozen=True)
class StudyPlan:
    """A study on a mesh.

    Attributes:
        evaluations: how many there are of each split.
        responses: of one evaluation of each split; None where questions are neither here nor
            counted in a benchmark's facts.
        evaluation_hours: sampling the answers of all evaluations; judging is not in it.
    """

    study: str
    mesh: str
    chips: int
    methods: list[MethodHours]
    evaluations: dict[str, int]
    responses: dict[str, int | None]
    evaluation_hours: float

    @property
    def hours(self) -> float:
        return sum(method.total for method in self.methods) + self.evaluation_hours

    @property
    def fits(self) -> bool:
        return all(method.fits for method in self.methods)


def plan_study(study: Study, mesh: "MeshConfig", assumed: "Assumed | None" = None) -> StudyPlan:
    """Plans one run of every setting that costs another one, and sums over seeds.

    Raises:
        ConfigError, EnvironmentFault: as `plan_recipe`.
    """
    from thinksafe_jax.planning import Assumed, plan_recipe

    assumed = assumed or Assumed()
    plans: dict[str, RecipePlan] = {}

    def planned(recipe: Recipe) -> "RecipePlan":
        key = repr(apart_from_rates(recipe))
        if key not in plans:
            fixed = recipe.synthesis.method in ("direct-refusal", "safepath")
            tokens = _FIXED_TOKENS if fixed else assumed.response_tokens
            plans[key] = plan_recipe(recipe, mesh, replace(assumed, response_tokens=tokens))
        return plans[key]

    methods = [_method_hours(study, method, planned) for method in study.methods]
    evaluations = _evaluations(study)
    responses = {split: _responses(getattr(study.config, split)) for split in SPLITS}
    rate = _student_rate(study, planned)
    tokens = sum(
        evaluations[split] * (responses[split] or 0) * assumed.response_tokens for split in SPLITS
    )
    return StudyPlan(
        study.config.name,
        mesh.name,
        mesh.topology.chips,
        methods,
        evaluations,
        responses,
        tokens / rate / 3600 if rate else 0.0,
    )


def print_study_plan(
    study: Study, mesh: str | None, assumed: "Assumed", json_out: Path | None
) -> bool:
    """The command `thinksafe plan --study`; whether everything fits.

    Raises:
        ConfigError: neither the command nor the recipes name a mesh.
    """
    from thinksafe_jax.sharding import load_mesh

    name = mesh or study.methods[0].settings[0].recipe.mesh
    if name is None:
        raise ConfigError("the study's recipes name no mesh; give --mesh")
    plan = plan_study(study, load_mesh(name), assumed)
    if json_out is not None:
        content = {**asdict(plan), "hours": plan.hours, "fits": plan.fits}
        atomic_write(json_out, json.dumps(content, indent=1) + "\n")
    print("\n".join(_lines(plan, assumed)))
    return plan.fits


def _method_hours(study: Study, method: Method, planned: Planner) -> MethodHours:
    tried = study.choosing_seeds if len(method.settings) > 1 else []
    later = [seed for seed in study.config.seeds if seed not in tried]
    by_setting, by_data = {}, {}
    for setting in method.settings:
        by_setting[setting.name] = _run_hours(setting.recipe, planned(setting.recipe))
        data = setting.data.name if setting.data else setting.name
        by_data[data] = by_setting[setting.name]  # sampled once for all settings that share it
    dearest = max(by_setting.values(), key=lambda hours: sum(hours.values()))
    hours = {}
    for stage in STAGES:
        once = sum(of[stage] for of in (by_setting if stage == "train" else by_data).values())
        hours[stage] = len(tried) * once + len(later) * dearest[stage]
    runs = len(tried) * len(method.settings) + len(later)
    fits = all(planned(setting.recipe).fits for setting in method.settings)
    return MethodHours(method.name, runs, hours, fits)


def _run_hours(recipe: Recipe, plan: "RecipePlan") -> dict[str, float]:
    """Hours of one run by stage; a method that samples nothing only trains.

    A loop leaves out what a server draws. What its teacher reads is beside the guard, as in costs.
    """
    on_policy = recipe.on_policy
    sampled = bool(on_policy.method) or recipe.synthesis.method in SAMPLED
    names = {*(STAGES if sampled else ("train",))}
    names -= {"sample"} if on_policy.server.url else set()
    hours: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    for stage in plan.stages:
        if stage.name in names:
            hours[stage.name] += stage.hours
        elif stage.name == "loop":  # the last
            hours["guard"] += stage.hours - sum(hours.values())
    return hours


def _evaluations(study: Study) -> dict[str, int]:
    """How many evaluations each split has; the untouched student's among them."""
    choosing = [method for method in study.methods if len(method.settings) > 1]
    tried = sum(len(method.settings) for method in choosing)
    return {
        "validation": len(study.choosing_seeds) * (tried + 1) if choosing else 0,
        "heldout": len(study.config.seeds) * (len(study.methods) + 1),
    }


def _responses(cfg: EvaluationConfig) -> int | None:
    """Answers to one evaluation; None where its questions cannot be counted."""
    from thinksafe_jax.planning import count_answers

    answers = count_answers(cfg)
    return None if answers is None else sum(answers.values())


def _student_rate(study: Study, planned: Planner) -> float:
    """Tokens a second that the student samples."""
    by_student = [
        setting.recipe
        for method in study.methods
        for setting in method.settings
        if not setting.recipe.synthesis.teacher.model
    ]
    recipe = by_student[0] if by_student else study.methods[0].settings[0].recipe
    return next(s.tokens_per_second for s in planned(recipe).stages if s.name == "sample")


def _lines(plan: StudyPlan, assumed: "Assumed") -> Iterator[str]:
    runs = sum(method.runs for method in plan.methods)
    yield f"{plan.study} on {plan.mesh}: {plan.chips} chips, {runs} runs"
    yield (
        f"{assumed.prompt_tokens:,} tokens of prompt and {assumed.response_tokens:,} of response "
        "each (assumed); hours at the roofline's bound: at least these"
    )
    yield ""
    width = max(len(method.name) for method in plan.methods)
    yield f"{'method':<{width}}  runs  sample h   guard h   train h   total h  chip-hours"
    for method in plan.methods:
        parts = "".join(f"{method.hours[stage]:>10,.2f}" for stage in STAGES)
        room = "" if method.fits else "  does not fit: thinksafe plan --config says where"
        yield (
            f"{method.name:<{width}}{method.runs:>6}{parts}{method.total:>10,.2f}"
            f"{method.total * plan.chips:>12,.1f}{room}"
        )
    yield ""
    yield from _evaluation_lines(plan)
    total = f"{plan.hours:,.1f} h, {plan.hours * plan.chips:,.0f} chip-hours"
    yield f"in all {total}, one after the other"


def _evaluation_lines(plan: StudyPlan) -> Iterator[str]:
    for split, count in plan.evaluations.items():
        if count:
            responses = plan.responses[split]
            said = (
                f"{responses:,} answers each"
                if responses is not None
                else "questions that cannot be counted here, not in the hours"
            )
            yield f"{split}: {count} evaluations, {said}"
    yield (
        f"answers of the evaluations: {plan.evaluation_hours:,.2f} h, "
        f"{plan.evaluation_hours * plan.chips:,.1f} chip-hours; judging is not in it"
    )
