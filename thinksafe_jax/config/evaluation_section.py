"""The section of a recipe that says what the model is asked afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from thinksafe_jax.config.limits import COUNT, EachOnce, Holds, choice
from thinksafe_jax.config.shared_sections import LATER, PromptSource, SamplingConfig
from thinksafe_jax.variants import variant_names


@dataclass(frozen=True)
class SuiteConfig:
    """One suite: a benchmark by name, or a file of your own with a kind."""

    name: str = ""
    # of a file of your own; "" is the benchmark's
    kind: Annotated[str, choice("", "harmful", "over_refusal", "compliance", "reasoning")] = ""
    # local JSONL, JSON, CSV or Parquet file instead of the Hub's, or mini:heldout-harmful, ...
    path: str = ""
    revision: str | None = None  # of the Hub dataset; the commit found at first is kept
    # how answers are read; "" is the benchmark's
    style: Annotated[str, choice("", "math", "gsm8k", "choice")] = ""
    limit: Annotated[int | None, COUNT] = None  # questions kept
    # prefix attack: every response begins with this text, and the model goes on from there
    answer_prefix: str = field(default="", metadata=LATER)

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        benchmarks = choice(*variant_names("data/benchmarks"))
        if self.name and not self.kind and (text := benchmarks.problem(self.name)):
            yield f"name: {text} (a suite of your own needs a kind)"


@dataclass(frozen=True)
class EvaluationConfig:
    """What the model is asked afterwards, and how its answers are judged."""

    harmful: list[PromptSource] = field(default_factory=list)
    over_refusal: list[PromptSource] = field(default_factory=list)
    reasoning: list[PromptSource] = field(default_factory=list)
    # mini: the mini world's exact judge, the guard's agreement beside it
    judge: Annotated[str, choice("guard", "mini")] = "guard"
    # {prompt} is replaced once, literally
    reasoning_prompt: Annotated[str, Holds("{prompt}", "where the question goes")] = "{prompt}"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    suites: list[SuiteConfig] = field(default_factory=list)  # named ones, beside the lists above
    # the first questions of each list and of each suite; their own limits hold as well
    limit: Annotated[int | None, COUNT] = field(default=None, metadata=LATER)
    samples: Annotated[int, COUNT] = 1  # responses per reasoning question
    reasoning_sampling: SamplingConfig | None = None  # of the reasoning suites; None is `sampling`
    # the parts of a response that are judged
    scopes: Annotated[
        list[Annotated[str, choice("full", "answer", "think")]], EachOnce("scope")
    ] = field(default_factory=lambda: ["full"])

    @property
    def sources(self) -> list[PromptSource]:
        """The prompts of every suite."""
        return [*self.harmful, *self.over_refusal, *self.reasoning]
