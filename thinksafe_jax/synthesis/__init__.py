"""What the student is asked, what of its answers is kept, and the dataset that comes of it."""

from thinksafe_jax.synthesis.dataset import (
    DatasetFacts,
    dataset_facts,
    read_dataset,
    reasons_table,
    write_dataset,
)
from thinksafe_jax.synthesis.filter import DROP_REASONS, drop_reason, row_drop_reason
from thinksafe_jax.synthesis.ladder import Attempt, Ledger, attempts, chosen_attempts, coverage
from thinksafe_jax.synthesis.prompts import (
    Prompt,
    PromptSet,
    load_prompts,
    read_prompts,
)
from thinksafe_jax.synthesis.rounds import Rounds
from thinksafe_jax.synthesis.sample import (
    DIRECT_REFUSAL_ANSWER,
    DIRECT_REFUSAL_THOUGHT,
    SAFEPATH_PRIMER,
    SAMPLED,
    fixed_rows,
    plan_attempt,
    sample_rows,
)
from thinksafe_jax.synthesis.selection import (
    Selection,
    contaminated,
    stratified,
    synthesis_prompts,
)
from thinksafe_jax.synthesis.sources import source_hashes
from thinksafe_jax.synthesis.steering import TEMPLATES, steer, steering_of

__all__ = [
    "DIRECT_REFUSAL_ANSWER",
    "DIRECT_REFUSAL_THOUGHT",
    "DROP_REASONS",
    "SAFEPATH_PRIMER",
    "SAMPLED",
    "TEMPLATES",
    "Attempt",
    "DatasetFacts",
    "Ledger",
    "Prompt",
    "PromptSet",
    "Rounds",
    "Selection",
    "attempts",
    "chosen_attempts",
    "contaminated",
    "coverage",
    "dataset_facts",
    "drop_reason",
    "fixed_rows",
    "load_prompts",
    "plan_attempt",
    "read_dataset",
    "read_prompts",
    "reasons_table",
    "row_drop_reason",
    "sample_rows",
    "source_hashes",
    "steer",
    "steering_of",
    "stratified",
    "synthesis_prompts",
    "write_dataset",
]
