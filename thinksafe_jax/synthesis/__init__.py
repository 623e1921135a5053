"""What the student is asked, what of its answers is kept, and the dataset that comes of it."""

from thinksafe_jax.synthesis.coverage import Counts, reasons_table
from thinksafe_jax.synthesis.dataset import (
    DatasetFacts,
    Lengths,
    dataset_facts,
    read_dataset,
    write_dataset,
)
from thinksafe_jax.synthesis.edited_prompts import EditedPrompts
from thinksafe_jax.synthesis.filter import drop_reason
from thinksafe_jax.synthesis.ladder import ACCEPTED, VERDICT_FIELDS, Ledger, attempts
from thinksafe_jax.synthesis.publish import push, write_authors_json
from thinksafe_jax.synthesis.refusals import (
    MANY_REFUSALS,
    RefusalCounts,
    Refusals,
    count_refusals,
    refusal_warning,
    write_refusals,
)
from thinksafe_jax.synthesis.rescue import beginning, rescue
from thinksafe_jax.synthesis.rounds import Rounds, Sampler
from thinksafe_jax.synthesis.sampled_rows import SAMPLE_FIELDS
from thinksafe_jax.synthesis.selection import (
    Selection,
    require_labels,
    stratified,
    synthesis_prompts,
)
from thinksafe_jax.synthesis.steering import (
    TEMPLATES,
    repeats_steering,
    short_name,
    steer,
    steering_of,
)

__all__ = [
    "ACCEPTED",
    "MANY_REFUSALS",
    "SAMPLE_FIELDS",
    "TEMPLATES",
    "VERDICT_FIELDS",
    "Counts",
    "DatasetFacts",
    "EditedPrompts",
    "Ledger",
    "Lengths",
    "RefusalCounts",
    "Refusals",
    "Rounds",
    "Sampler",
    "Selection",
    "attempts",
    "beginning",
    "count_refusals",
    "dataset_facts",
    "drop_reason",
    "push",
    "read_dataset",
    "reasons_table",
    "refusal_warning",
    "repeats_steering",
    "require_labels",
    "rescue",
    "short_name",
    "steer",
    "steering_of",
    "stratified",
    "synthesis_prompts",
    "write_authors_json",
    "write_dataset",
    "write_refusals",
]
