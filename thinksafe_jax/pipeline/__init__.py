"""The whole flow: stages in order over a run directory, each part loaded once."""

from thinksafe_jax.pipeline.beside_training import train_others
from thinksafe_jax.pipeline.evaluate_model import (
    ModelEvaluation,
    default_folder,
    evaluate_on_suites,
    evaluate_student,
    parse_suites,
)
from thinksafe_jax.pipeline.evaluate_run import (
    RunEvaluation,
    evaluate_run_on_suites,
    folder_of_suites,
)
from thinksafe_jax.pipeline.fault_list import FaultList
from thinksafe_jax.pipeline.flow import export_merged, run_part, run_pipeline, stages_of
from thinksafe_jax.pipeline.mesh_advice import ready_meshes
from thinksafe_jax.pipeline.preflight import preflight
from thinksafe_jax.pipeline.session import Session, exported

__all__ = [
    "FaultList",
    "ModelEvaluation",
    "RunEvaluation",
    "Session",
    "default_folder",
    "evaluate_on_suites",
    "evaluate_run_on_suites",
    "evaluate_student",
    "export_merged",
    "exported",
    "folder_of_suites",
    "parse_suites",
    "preflight",
    "ready_meshes",
    "run_part",
    "run_pipeline",
    "stages_of",
    "train_others",
]
