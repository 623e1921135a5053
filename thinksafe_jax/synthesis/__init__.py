"""What the student is asked, what of its answers is kept, and the dataset that comes of it."""

from thinksafe_jax.synthesis.dataset import (
    DatasetFacts,
    dataset_facts,
    reasons_table,
    write_dataset,
)
from thinksafe_jax.synthesis.filter import DROP_REASONS, drop_reason, row_drop_reason
from thinksafe_jax.synthesis.prompts import (
    Prompt,
    PromptSet,
    load_prompts,
    read_prompts,
    source_hashes,
)
from thinksafe_jax.synthesis.sample import (
    DIRECT_REFUSAL_ANSWER,
    DIRECT_REFUSAL_THOUGHT,
    build_requests,
    sample_rows,
)
from thinksafe_jax.synthesis.steering import TEMPLATES, steer, steering_of

__all__ = [
    "DIRECT_REFUSAL_ANSWER",
    "DIRECT_REFUSAL_THOUGHT",
    "DROP_REASONS",
    "TEMPLATES",
    "DatasetFacts",
    "Prompt",
    "PromptSet",
    "build_requests",
    "dataset_facts",
    "drop_reason",
    "load_prompts",
    "read_prompts",
    "reasons_table",
    "row_drop_reason",
    "sample_rows",
    "source_hashes",
    "steer",
    "steering_of",
    "write_dataset",
]
