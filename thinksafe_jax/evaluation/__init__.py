"""Responses scored: harm, over-refusal, reasoning, and what the paper published."""

from thinksafe_jax.evaluation.compare import Comparison, compare, read_evaluation
from thinksafe_jax.evaluation.evaluator import evaluate
from thinksafe_jax.evaluation.presets import Preset, preset
from thinksafe_jax.evaluation.published import (
    paper_columns,
    paper_model,
    paper_rows,
    paper_table,
    published,
)
from thinksafe_jax.evaluation.scoring import outcome, score_file

__all__ = [
    "Comparison",
    "Preset",
    "compare",
    "evaluate",
    "outcome",
    "paper_columns",
    "paper_model",
    "paper_rows",
    "paper_table",
    "preset",
    "published",
    "read_evaluation",
    "score_file",
]
