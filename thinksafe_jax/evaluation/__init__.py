"""Responses scored: harm, over-refusal, reasoning, and what the paper published."""

from thinksafe_jax.evaluation.asking import Subject
from thinksafe_jax.evaluation.compare import (
    Comparison,
    Evaluated,
    compare_evaluations,
    read_evaluation,
)
from thinksafe_jax.evaluation.evaluator import evaluate, require_scorers
from thinksafe_jax.evaluation.judging import Judge
from thinksafe_jax.evaluation.presets import Preset, preset
from thinksafe_jax.evaluation.published import (
    paper_columns,
    paper_model,
    paper_rows,
    paper_table,
    published_tables,
)
from thinksafe_jax.evaluation.score_file import score_responses
from thinksafe_jax.evaluation.scored_rows import read_scored_rows
from thinksafe_jax.evaluation.scoring import outcome

__all__ = [
    "Comparison",
    "Evaluated",
    "Judge",
    "Preset",
    "Subject",
    "compare_evaluations",
    "evaluate",
    "outcome",
    "paper_columns",
    "paper_model",
    "paper_rows",
    "paper_table",
    "preset",
    "published_tables",
    "read_evaluation",
    "read_scored_rows",
    "require_scorers",
    "score_responses",
]
