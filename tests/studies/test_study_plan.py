"""The hours of a study: over settings, seeds and splits; what costs alike is planned once."""

from dataclasses import replace

import pytest

from tests.studies.conftest import SMALL
from thinksafe_jax.config import OnPolicyConfig, Recipe, RolloutServerConfig
from thinksafe_jax.planning import Assumed, RecipePlan
from thinksafe_jax.planning.stage_plans import StagePlan
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.studies import load_study, study_plan


@pytest.fixture
def planned(monkeypatch):
    """A plan of one hour a stage and epoch, and the recipes that were planned."""
    recipes = []

    def plan(recipe, mesh, assumed):
        recipes.append((recipe.synthesis.method, assumed.response_tokens))
        hours = {"load": 9.0, "sample": 1.0, "guard": 0.5, "train": float(recipe.training.epochs)}
        stages = [
            StagePlan(name, "mini:student", hours=value, tokens_per_second=1000.0)
            for name, value in hours.items()
        ]
        return RecipePlan(recipe.name, mesh, 10, True, assumed, stages)

    monkeypatch.setattr("thinksafe_jax.planning.plan_recipe", plan)
    return recipes


def test_runs_and_hours_are_summed_over_settings_and_seeds(write, planned):
    study = load_study(write())
    plan = study_plan.plan_study(study, load_mesh("cpu-8"), Assumed(response_tokens=360))
    thinksafe, refusal = plan.methods
    # four settings with the choosing seed, on one run's samples; then the other seed of the dearest
    assert thinksafe.runs == 5
    assert thinksafe.hours == {"sample": 2.0, "guard": 1.0, "train": 1 + 2 + 1 + 2 + 2}
    # it samples nothing, and five epochs cost five hours
    assert (refusal.runs, refusal.hours) == (2, {"sample": 0.0, "guard": 0.0, "train": 10.0})
    # the learning rate changes no hour, and a fixed refusal is short
    assert planned == [("thinksafe", 360), ("thinksafe", 360), ("direct-refusal", 32)]
    assert plan.evaluations == {"validation": 5, "heldout": 6}
    assert plan.responses == {"validation": 4, "heldout": 4}
    answers = 5 * 4 + 6 * 4
    assert plan.evaluation_hours == pytest.approx(answers * 360 / 1000 / 3600)
    assert plan.hours == pytest.approx(11 + 10 + plan.evaluation_hours)


def test_a_benchmark_that_is_not_here_is_counted_from_its_facts(write, planned, capsys):
    suites = [{"name": "gsm8k"}, {"name": "strongreject", "limit": 100}]
    heldout = {**SMALL["heldout"], "suites": suites, "samples": 8}
    study = load_study(write(heldout=heldout))
    assert study_plan.print_study_plan(study, "cpu-8", Assumed(), None)
    assert f"6 evaluations, {4 + 8 * 1319 + 100:,} answers each" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["", "http://h:1/v1"])
def test_the_hours_of_a_loop_have_its_teacher_and_no_server(url):
    """A teacher that reads for three hours, beside what a server draws, or the sampler here."""
    parts = {"sample": 2.0, "guard": 0.5, "train": 1.0}
    server = RolloutServerConfig(url, adapter_folder="/adapters" if url else "")
    recipe = replace(Recipe(), on_policy=OnPolicyConfig(method="opd", server=server))
    drawn = 0.0 if url else 2.0
    hours = parts | {"loop": drawn + 0.5 + 1.0 + 3.0}
    stages = [StagePlan(name, "mini:student", hours=value) for name, value in hours.items()]
    plan = RecipePlan("", load_mesh("cpu-8"), 10, True, Assumed(), stages)
    assert study_plan._run_hours(recipe, plan) == {"sample": drawn, "guard": 3.5, "train": 1.0}
