"""Sections that several parts of a recipe have, and what their fields share."""

from dataclasses import dataclass, field
from typing import Annotated

from thinksafe_jax.config.limits import (
    COUNT,
    INDEX,
    NOT_NEGATIVE,
    SHARE,
    Range,
    VariantOrText,
    check_limits,
    choice,
)
from thinksafe_jax.variants import variant_names

DTYPE = choice("float32", "bfloat16")
LABEL = choice("harmful", "benign")
STEERING = VariantOrText(variant_names("synthesis/steering"))
TEMPERATURE = NOT_NEGATIVE  # 0 is greedy


# A field that an earlier version did not have. With its default it is as if it were not there: what
# an earlier version recorded in a run directory stays valid, see `storage.plain`.
LATER = {"later": True}


@dataclass(frozen=True)
class ModelSource:
    """Which checkpoint plays a role."""

    model: str = ""  # a directory, a Hub id, or mini:student, mini:teacher, ...
    revision: str | None = None
    dtype: Annotated[str, DTYPE] = "bfloat16"


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn; all of these are heeded in every draw.

    Raises:
        ConfigError: an option is out of its range.
    """

    temperature: Annotated[float, TEMPERATURE] = 0.6
    top_p: Annotated[float, Range(0, 1, open_low=True)] = 0.95
    # 0 switches it off (R1-Distill); the session compares it with the vocabulary
    top_k: Annotated[int, INDEX] = 20
    min_p: Annotated[float, SHARE] = 0.0
    max_new_tokens: Annotated[int, COUNT] = 16384

    def __post_init__(self) -> None:
        check_limits(self, "sampling")


@dataclass(frozen=True)
class PromptSource:
    """One source of prompts: a file, a dataset, or a split of the mini world."""

    # a JSONL, JSON, CSV or Parquet file; a folder with a dataset; hf:owner/name on the Hub;
    # mini:train-harmful, mini:heldout-arithmetic, ...
    path: str = ""
    split: str = "train"  # of a dataset
    subset: str | None = None  # configuration of a dataset, where it has several
    revision: str | None = None  # branch, tag or commit on the Hub
    prompt_column: str = "prompt"
    id_column: str | None = None  # default: "<file stem>-<row number>"
    label_column: str | None = None
    label: Annotated[str | None, LABEL] = None  # one label for all rows, instead of label_column
    # column value -> harmful | benign
    labels: dict[str, Annotated[str, LABEL]] = field(default_factory=dict)
    answer_column: str | None = None  # gold answer, for reasoning suites
    response_column: str | None = None  # what to train on, with method external
    # of that, columns of its characters up to the ends of the understanding and of the key sentence
    span_columns: list[str] = field(default_factory=list, metadata=LATER)
    where: dict[str, str] = field(default_factory=dict)  # keep rows whose column equals the value
    start: Annotated[int, INDEX] = 0  # first row kept, counted after `where`
    limit: Annotated[int | None, COUNT] = None  # rows kept
