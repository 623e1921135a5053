"""What a recipe or a model would need on a mesh, before a chip is rented."""

from thinksafe_jax.planning.compiler import hlo_written_to
from thinksafe_jax.planning.evaluation_plan import count_answers
from thinksafe_jax.planning.expected_work import ExpectedWork, expected_work
from thinksafe_jax.planning.find_model import find_model, shipped_facts
from thinksafe_jax.planning.memory import Settings, filled_rows, phase_budget
from thinksafe_jax.planning.model_plan import print_plan
from thinksafe_jax.planning.recipe_plan import RecipePlan, plan_recipe
from thinksafe_jax.planning.recipe_plan_report import print_recipe_plan
from thinksafe_jax.planning.search_report import run_search
from thinksafe_jax.planning.stage_plans import Assumed
from thinksafe_jax.planning.sweep_compare import print_comparison
from thinksafe_jax.planning.sweep_report import SweepFiles, run_sweep, settings_of
from thinksafe_jax.planning.sweep_settings import USUAL_PHASES, SweepSettings, check_phases
from thinksafe_jax.planning.workload import Workload, guards_of, workload_flops

__all__ = [
    "USUAL_PHASES",
    "Assumed",
    "ExpectedWork",
    "RecipePlan",
    "Settings",
    "SweepFiles",
    "SweepSettings",
    "Workload",
    "check_phases",
    "count_answers",
    "expected_work",
    "filled_rows",
    "find_model",
    "guards_of",
    "hlo_written_to",
    "phase_budget",
    "plan_recipe",
    "print_comparison",
    "print_plan",
    "print_recipe_plan",
    "run_search",
    "run_sweep",
    "settings_of",
    "shipped_facts",
    "workload_flops",
]
