"""Studies: several methods at their best settings, with seeds, costs and one page."""

from thinksafe_jax.studies.run_study import default_folder, run_study
from thinksafe_jax.studies.study_file import load_study
from thinksafe_jax.studies.study_plan import print_study_plan
from thinksafe_jax.studies.study_table import study_table

__all__ = ["default_folder", "load_study", "print_study_plan", "run_study", "study_table"]
