"""What is asked: prompt files, benchmarks by name, questions, rows of Hub datasets."""

from thinksafe_jax.data.benchmarks import (
    BENCHMARKS,
    GROUPS,
    PaperColumn,
    benchmark,
    benchmark_kinds,
)
from thinksafe_jax.data.cells import name_cell, text_cell, value_cell
from thinksafe_jax.data.finish_reasons import finish_reason
from thinksafe_jax.data.kinds import (
    COMPLIANCE,
    HARMFUL,
    KINDS,
    LISTS,
    OVER_REFUSAL,
    RATES,
    REASONING,
    Kind,
)
from thinksafe_jax.data.prompts import LABELS, Prompt, load_prompts, read_prompts, source_hashes
from thinksafe_jax.data.questions import (
    Question,
    Questions,
    asked_text,
    fingerprint,
    load_questions,
)
from thinksafe_jax.data.readers import Row, read_rows

__all__ = [
    "BENCHMARKS",
    "COMPLIANCE",
    "GROUPS",
    "HARMFUL",
    "KINDS",
    "LABELS",
    "LISTS",
    "OVER_REFUSAL",
    "RATES",
    "REASONING",
    "Kind",
    "PaperColumn",
    "Prompt",
    "Question",
    "Questions",
    "Row",
    "asked_text",
    "benchmark",
    "benchmark_kinds",
    "fingerprint",
    "finish_reason",
    "load_prompts",
    "load_questions",
    "name_cell",
    "read_prompts",
    "read_rows",
    "source_hashes",
    "text_cell",
    "value_cell",
]
