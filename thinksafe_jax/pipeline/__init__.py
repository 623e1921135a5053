"""The whole flow: stages in order over a run directory, each part loaded once."""

from thinksafe_jax.pipeline.evaluate_model import ModelEvaluation, evaluate_model, parse_suites
from thinksafe_jax.pipeline.flow import export_merged, run_part, run_pipeline
from thinksafe_jax.pipeline.session import Session

__all__ = [
    "ModelEvaluation",
    "Session",
    "evaluate_model",
    "export_merged",
    "parse_suites",
    "run_part",
    "run_pipeline",
]
