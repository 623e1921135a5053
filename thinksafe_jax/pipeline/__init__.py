"""The whole flow: stages in order over a run directory, each part loaded once."""

from thinksafe_jax.pipeline.evaluate_model import (
    STEP,
    ModelEvaluation,
    evaluate_model,
    parse_suites,
    recipe_of,
)
from thinksafe_jax.pipeline.flow import export_merged, run_part, run_pipeline
from thinksafe_jax.pipeline.session import Session

__all__ = [
    "STEP",
    "ModelEvaluation",
    "Session",
    "evaluate_model",
    "export_merged",
    "parse_suites",
    "recipe_of",
    "run_part",
    "run_pipeline",
]
