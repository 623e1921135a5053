"""What a recipe or a model would need on a mesh, before a chip is rented."""

from thinksafe_jax.planning.model_plan import print_plan
from thinksafe_jax.planning.recipe_plan_report import print_recipe_plan
from thinksafe_jax.planning.stage_plans import Assumed
from thinksafe_jax.planning.sweep_report import run_sweep, settings_of

__all__ = ["Assumed", "print_plan", "print_recipe_plan", "run_sweep", "settings_of"]
