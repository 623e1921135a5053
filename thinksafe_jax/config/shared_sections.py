"""Sections that several parts of a recipe have, and what their fields share."""

from dataclasses import dataclass
from typing import Annotated

from thinksafe_jax.config.limits import (
    COUNT,
    INDEX,
    NOT_NEGATIVE,
    SHARE,
    Range,
    VariantOrText,
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

    model: str = ""  # a directory, a Hub id, or mini:student / mini:guard
    revision: str | None = None
    dtype: Annotated[str, DTYPE] = "bfloat16"


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn; all of these are heeded in every draw."""

    temperature: Annotated[float, TEMPERATURE] = 0.6
    top_p: Annotated[float, Range(0, 1, open_low=True)] = 0.95
    # 0 switches it off (R1-Distill); the session compares it with the vocabulary
    top_k: Annotated[int, INDEX] = 20
    min_p: Annotated[float, SHARE] = 0.0
    max_new_tokens: Annotated[int, COUNT] = 16384
