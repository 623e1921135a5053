"""A recipe's plan as a person reads it, and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from thinksafe_jax.config import Recipe
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.model_plan import (
    bound_text,
    gb,
    machine_text,
    make_plan,
    parameter_lines,
)
from thinksafe_jax.planning.recipe_plan import RecipePlan, plan_recipe
from thinksafe_jax.planning.roofline import BOUND, DCN_BOUND, FORMULAS, SYMBOLS
from thinksafe_jax.planning.stage_plans import Assumed, StagePlan
from thinksafe_jax.planning.this_machine import this_machine
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.storage import atomic_write


def print_recipe_plan(
    recipe: Recipe,
    mesh: str | None,
    assumed: Assumed,
    json_out: Path | None,
    *,
    parameters: bool = False,
    by_letters: bool = False,
) -> bool:
    """The command `thinksafe plan --config`; whether everything fits.

    Args:
        mesh: see `load_mesh`; default the recipe's, else the processor at hand.
        parameters: list the student's parameters, too, in both phases.
        by_letters: see `plan_recipe`.

    Raises:
        ConfigError: neither names a mesh, and the processor at hand is not what is meant.
    """
    name = mesh or recipe.mesh
    machine = load_mesh(name) if name else this_machine(recipe)
    plan = plan_recipe(recipe, machine, assumed, by_letters=by_letters)
    model, cfg = find_model(recipe.student.model)
    if json_out is not None:
        atomic_write(json_out, json.dumps(as_json(plan), indent=1) + "\n")
    print(recipe_plan_text(plan))
    if parameters:
        lists = make_plan(model, cfg, plan.mesh)
        for name, phase in (("generate", lists.generate), ("train", lists.train)):
            print("\n".join(["", name, *parameter_lines(phase)]))
    return plan.fits


def as_json(plan: RecipePlan) -> dict:
    """Plain values only."""
    stages = [
        {**asdict(stage), "peak": stage.peak, "fits": stage.fits(plan.mesh)}
        for stage in plan.stages
    ]
    return {**asdict(plan), "stages": stages, "fits": plan.fits}


def recipe_plan_text(plan: RecipePlan) -> str:
    """A paragraph for each stage."""
    topology, assumed = plan.mesh.topology, plan.assumed
    said = "counted" if plan.counted else "assumed: their files are not here"
    lines = [
        f"{plan.recipe} on {plan.mesh.name}: {machine_text(topology)}, "
        f"{gb(topology.hbm_bytes)} each",
        f"{plan.prompts:,} prompts ({said}), {assumed.prompt_tokens:,} tokens of prompt and "
        f"{assumed.response_tokens:,} of response each, or as many as may be sampled (assumed)",
    ]
    for stage in plan.stages:
        lines += ["", *_stage_lines(stage, plan)]
    lines += ["", *_evaluation_lines(plan)]
    used = dict.fromkeys(stage.formula for stage in plan.stages if stage.formula)
    bounds = [BOUND, *([DCN_BOUND] if topology.slices > 1 else [])]
    lines += ["", *bounds, *(f"  {name}: {FORMULAS[name]}" for name in used), SYMBOLS]
    return "\n".join(lines)


def _evaluation_lines(plan: RecipePlan) -> Iterator[str]:
    """Both evaluations, and the sum of all hours."""
    evaluation, chips = plan.evaluation, plan.mesh.topology.chips
    answers = ", ".join(f"{n:,} {kind}" for kind, n in (evaluation.answers or {}).items())
    yield f"evaluate  before and after, each {answers or 'no'} answers"
    yield from (f"  {fact}" for fact in evaluation.facts)
    yield f"  at least {evaluation.hours:,.2f} h, {evaluation.hours * chips:,.1f} chip-hours"
    what = "the trial" if plan.trial else "the run"
    yield f"{what} in all: at least {plan.hours:,.2f} h, {plan.hours * chips:,.1f} chip-hours"


def _stage_lines(stage: StagePlan, plan: RecipePlan) -> Iterator[str]:
    sizes = ", ".join(f"{name} {size}" for name, size in stage.axes.items())
    yield f"{stage.name}  {stage.model}  ({sizes}; rules {stage.rules_hash})"
    yield from (f"  does not go: {problem}" for problem in stage.problems)
    hbm = plan.mesh.topology.hbm_bytes
    if stage.bytes:
        parts = ", ".join(f"{name} {gb(size)}" for name, size in stage.bytes.items() if size)
        verdict = "fits" if stage.fits(plan.mesh) else "does not fit"
        yield f"  {parts}"
        yield f"  = {gb(stage.peak)} of {gb(hbm)} a device: {verdict}"
    if stage.compiler:
        yield f"  compiled for {stage.compiler}"
    yield from (f"  {fact}" for fact in stage.facts)
    if stage.bound is not None:
        yield from _rate_lines(stage, plan)
    yield from (f"  warning: {text}" for text in stage.warnings)
    if stage.nearest:
        yield f"  the nearest that fits: {' '.join(stage.nearest)}"
    elif not stage.fits(plan.mesh):
        yield "  nothing near it fits either; use a larger machine or a smaller model"


def _rate_lines(stage: StagePlan, plan: RecipePlan) -> Iterator[str]:
    bound = stage.bound
    assert bound is not None
    sent = ", ".join(
        f"{t.count:,} {kind} ({_mb(t.bytes)})" for kind, t in sorted(stage.traffic.items())
    )
    across = sum(traffic.dcn_bytes for traffic in stage.traffic.values())
    to_others = f"; a chip sends {_mb(across)} to other slices" if across else ""
    yield f"  {stage.call} sends {sent or 'nothing'}{to_others}"
    yield f"  {bound_text(bound)}"
    chips = plan.mesh.topology.chips
    yield (
        f"  at most {stage.tokens_per_second:,.0f} tokens/s: {stage.hours:,.2f} h, "
        f"{stage.hours * chips:,.1f} chip-hours"
    )


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
