"""What each number and name of a recipe may be: types cannot see that NaN is no temperature.

`top_k` is compared with the vocabulary by the session, which knows the model.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator
from typing import Any

from thinksafe_jax.config.recipe import (
    EngineConfig,
    EvaluationConfig,
    GuardConfig,
    GuardModel,
    ModelSource,
    PromptSource,
    Recipe,
    Rung,
    SamplingConfig,
    SuiteConfig,
    SynthesisConfig,
    TrainingConfig,
)
from thinksafe_jax.errors import ConfigError

LARGEST = 2**31 - 1  # sizes and counts become int32 on the device
METHODS = ("thinksafe", "rejection", "direct-refusal", "safepath", "external")
LABELS = ("harmful", "benign")
STEERING = ("authors", "paper", "suffix", "risk", "intent", "none")  # synthesis.steering.TEMPLATES


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between two ends; `open_low`, `open_high` exclude the end itself."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def problem(self, value: float) -> str | None:
        if not math.isfinite(value):
            return f"is {value}; expected {self}"
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return None if above and below else f"is {value}; expected {self}"

    def __str__(self) -> str:
        low = f"{'>' if self.open_low else '>='} {self.low:g}"
        if self.high == math.inf:
            return f"a finite number {low}"
        high = f"{'<' if self.open_high else '<='} {self.high:.10g}"
        return f"a number {low} and {high}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of a few names; the nearest is suggested."""

    names: tuple[str, ...]

    def problem(self, value: str) -> str | None:
        if value in self.names:
            return None
        near = difflib.get_close_matches(value, self.names, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"is {value!r}; expected one of {', '.join(self.names)}{hint}"


class TemplateName(OneOf):
    """A known steering template, or a text of the user's own around its `{prompt}`."""

    def problem(self, value: str) -> str | None:
        if value.count("{prompt}") == 1:
            return None
        text = super().problem(value)
        return text and f"{text} (or a text of your own with {{prompt}} in it once)"


COUNT = Range(1, LARGEST)
SHARE = Range(0, 1)
POSITIVE = Range(0, open_low=True)
DTYPE = OneOf(("float32", "bfloat16"))
PROJECTIONS = OneOf(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
TRACKERS = OneOf(("tensorboard", "wandb"))
TEMPLATE = TemplateName(STEERING)

GUARD_KINDS = ("llama-guard", "wildguard", "qwen3guard", "refusal-match")
GUARD_RULES: dict[str, Range | OneOf] = {
    "kind": OneOf(GUARD_KINDS),
    "dtype": DTYPE,
    "max_length": COUNT,
    "batch_tokens": COUNT,
    "api": OneOf(("chat", "completions", "tokens")),
    "concurrency": Range(1, 1024),
    "timeout_seconds": POSITIVE,
    "retries": Range(0, 100),
    "answer_tokens": COUNT,
}
RULES: dict[type, dict[str, Range | OneOf]] = {
    Recipe: {"seed": Range(0, LARGEST)},
    ModelSource: {"dtype": DTYPE},
    GuardModel: GUARD_RULES,
    GuardConfig: {
        **GUARD_RULES,
        "kind": OneOf((*GUARD_KINDS, "majority", "same")),
        "max_unparsed": SHARE,
    },
    PromptSource: {"label": OneOf(LABELS), "start": Range(0, LARGEST), "limit": COUNT},
    SamplingConfig: {
        "temperature": Range(0),
        "top_p": Range(0, 1, open_low=True),
        "top_k": Range(0, LARGEST),
        "min_p": SHARE,
        "max_new_tokens": COUNT,
    },
    EngineConfig: {
        "slots": COUNT,
        "window": COUNT,
        "page_size": COUNT,
        "pool_tokens": COUNT,
        "max_length": COUNT,
    },
    SynthesisConfig: {
        "method": OneOf(METHODS),
        "steering": TEMPLATE,
        "reasoning": OneOf(("think", "none")),
        "harmful_reasoning": OneOf(("keep", "remove")),
        "attempts": Range(1, 1000),
        "limit": COUNT,
    },
    Rung: {"steering": TEMPLATE, "temperature": Range(0)},
    TrainingConfig: {
        "epochs": COUNT,
        "batch_size": COUNT,
        "micro_batch_size": COUNT,
        "learning_rate": POSITIVE,
        "warmup_ratio": SHARE,
        "weight_decay": Range(0),
        "clip_norm": POSITIVE,
        "max_length": COUNT,
        "lora_r": COUNT,
        "lora_alpha": POSITIVE,
        "lora_dropout": Range(0, 1, open_high=True),
        "too_long": OneOf(("drop", "truncate")),
        "think_newlines": OneOf(("keep", "authors")),
        "objective": OneOf(("ce", "ce+kl")),
        "kl": OneOf(("forward", "reverse", "symmetric")),
        "kl_top_k": Range(0, LARGEST),
        "kl_weight": POSITIVE,
        "weighting": OneOf(("tokens", "authors")),
        "remat": OneOf(("none", "dots", "attention", "layer")),
        "heldout_rows": Range(0, LARGEST),
        "evaluate_every": COUNT,
        "checkpoint_every": COUNT,
        "checkpoint_minutes": POSITIVE,
        "keep_checkpoints": COUNT,
    },
    EvaluationConfig: {"judge": OneOf(("guard", "mini")), "samples": COUNT},
    SuiteConfig: {
        "kind": OneOf(("", "harmful", "over_refusal", "compliance", "reasoning")),
        "style": OneOf(("", "math", "gsm8k", "choice")),
        "limit": COUNT,
    },
}


def validate(recipe: Recipe) -> None:
    """Check a recipe that was built in code.

    Raises:
        ConfigError: with every value that is out of its range, and what is missing for a run.
    """
    if problems := range_problems(recipe) + completeness_problems(recipe):
        raise ConfigError("\n  ".join(["the recipe cannot be run:", *problems]))


def range_problems(recipe: Recipe) -> list[str]:
    """One sentence for each value outside its range, each naming its full dotted key."""
    found = []
    for where, section in _sections(recipe, ""):
        for name, rule in RULES.get(type(section), {}).items():
            value = getattr(section, name)
            text = None if value is None else rule.problem(value)
            if text:
                found.append(f"{where}{name}: {text}")
    return found + _relations(recipe) + _names_in_collections(recipe)


def _sections(section: Any, where: str) -> Iterator[tuple[str, Any]]:
    yield where, section
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _sections(value, f"{where}{field.name}.")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    yield from _sections(item, f"{where}{field.name}[{i}].")


def _relations(recipe: Recipe) -> list[str]:
    training, engine, found = recipe.training, recipe.engine, []
    batch, micro = training.batch_size, training.micro_batch_size
    if micro >= 1 and batch % micro:
        found.append(
            f"training.batch_size: is {batch}; expected a multiple of micro_batch_size {micro}"
        )
    if training.kl_top_k and training.kl != "forward":
        found.append(f"training.kl_top_k: goes with training.kl forward, not {training.kl}")
    if training.objective == "ce+kl" and training.full_finetune:
        found.append(
            "training.objective: ce+kl needs an adapter that can be switched off; set "
            "training.full_finetune: false"
        )
    if engine.pool_tokens is not None and engine.pool_tokens < engine.page_size:
        found.append(
            f"engine.pool_tokens: is {engine.pool_tokens}; expected room for at least one page "
            f"(engine.page_size is {engine.page_size})"
        )
    synthesis = recipe.synthesis
    if len(synthesis.ladder) > synthesis.attempts:
        found.append(
            f"synthesis.attempts: is {synthesis.attempts}; expected at least the "
            f"{len(synthesis.ladder)} rungs of synthesis.ladder"
        )
    for room, sampling in (
        ("synthesis.sampling", recipe.synthesis.sampling if recipe.synthesis.prompts else None),
        ("evaluation.sampling", recipe.evaluation.sampling),
        ("evaluation.reasoning_sampling", recipe.evaluation.reasoning_sampling),
    ):
        new = 0 if sampling is None else sampling.max_new_tokens
        if engine.max_length is not None and new >= engine.max_length:
            found.append(
                f"{room}.max_new_tokens: is {new}; expected less than engine.max_length "
                f"({engine.max_length}), which holds the prompt too"
            )
    return found


def _names_in_collections(recipe: Recipe) -> list[str]:
    found, targets = [], recipe.training.lora_targets
    if not targets or len(set(targets)) != len(targets):
        found.append(f"training.lora_targets: is {targets}; expected one name or more, each once")
    for i, name in enumerate(targets):
        if text := PROJECTIONS.problem(name):
            found.append(f"training.lora_targets[{i}]: {text}")
    for i, name in enumerate(recipe.training.trackers):
        if text := TRACKERS.problem(name):
            found.append(f"training.trackers[{i}]: {text}")
    for where, section in _sections(recipe, ""):
        if isinstance(section, PromptSource):
            texts = {k: OneOf(LABELS).problem(v) for k, v in section.labels.items()}
            found += [f"{where}labels.{k}: {text}" for k, text in texts.items() if text]
    scopes = recipe.evaluation.scopes
    if not scopes or len(set(scopes)) != len(scopes):
        found.append(f"evaluation.scopes: is {scopes}; expected one scope or more, each once")
    for i, name in enumerate(scopes):
        if text := OneOf(("full", "answer", "think")).problem(name):
            found.append(f"evaluation.scopes[{i}]: {text}")
    if "{prompt}" not in recipe.evaluation.reasoning_prompt:
        found.append("evaluation.reasoning_prompt: has no {prompt}, where the question goes")
    return found


def _guard_problems(guard: GuardConfig | GuardModel, where: str) -> list[str]:
    members = guard.members if isinstance(guard, GuardConfig) else []
    if guard.kind == "majority":
        found = [
            p for i, m in enumerate(members) for p in _guard_problems(m, f"{where}members[{i}].")
        ]
        if len(members) < 2:
            found.append(f"{where}members: has {len(members)}; a majority needs two guards or more")
        return found
    if members:
        return [f"{where}members: only a guard of kind majority has members"]
    needs_model = not guard.url or guard.api != "chat"
    if guard.kind != "refusal-match" and needs_model and not guard.model:
        return [f"{where}model: no value given; expected a model, or {where}kind refusal-match"]
    if guard.url and not (guard.model or guard.served_name):
        return [f"{where}served_name: no value given; expected the server's name for its model"]
    if guard.url and guard.kind in ("wildguard", "refusal-match") and guard.api == "chat":
        return [f"{where}api: {guard.kind} has no chat template; expected completions or tokens"]
    if guard.authors_compat and (guard.kind != "llama-guard" or guard.url):
        return [f"{where}authors_compat: is only for a llama-guard that runs here"]
    return []


def completeness_problems(recipe: Recipe) -> list[str]:
    """What a run needs and the recipe does not say: models, prompts, labels, answers."""
    found = [] if recipe.student.model else ["student.model: no value given; expected a model"]
    found += _guard_problems(recipe.guard, "guard.")
    if recipe.guard.kind == "same":
        found.append("guard.kind: is same, which only the judge can be")
    if recipe.judge.kind != "same":
        found += _guard_problems(recipe.judge, "judge.")
    if not recipe.synthesis.prompts and not recipe.evaluation.suites:
        found.append("synthesis.prompts: is empty; expected one prompt source or more")
    for i, suite in enumerate(recipe.evaluation.suites):
        if not suite.name:
            found.append(f"evaluation.suites[{i}].name: no value given; expected a suite's name")
    for where, section in _sections(recipe, ""):
        if not isinstance(section, PromptSource) or section.path.startswith("mini:"):
            continue
        if not section.path:
            found.append(
                f"{where}path: no value given; expected a file, hf:<dataset> or mini:<split>"
            )
        external = recipe.synthesis.method == "external" and where.startswith("synthesis.")
        if external and not section.response_column:
            found.append(f"{where}response_column: no value given; expected the responses' column")
        if where.startswith("synthesis.") and not (section.label or section.label_column):
            found.append(f"{where}label: no value given; expected label or label_column")
        if where.startswith("evaluation.reasoning") and not section.answer_column:
            found.append(f"{where}answer_column: no value given; expected the gold answers' column")
    return found
