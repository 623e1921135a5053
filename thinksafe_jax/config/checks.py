"""Whether a recipe can be run: each value against its limit, values against each other, gaps."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from thinksafe_jax.config.limits import limit_problems
from thinksafe_jax.config.recipe import GuardConfig, GuardModel, Recipe
from thinksafe_jax.config.shared_sections import PromptSource
from thinksafe_jax.errors import ConfigError


def validate(recipe: Recipe) -> None:
    """Check a recipe that was built in code.

    Raises:
        ConfigError: with every value that is out of its range, and what is missing for a run.
    """
    if problems := section_problems(recipe) + completeness_problems(recipe):
        raise ConfigError("\n  ".join(["the recipe cannot be run:", *problems]))


def section_problems(section: Any) -> list[str]:
    """One sentence for each value that its limit or another value excludes, with its dotted key.

    Args:
        section: a recipe, or any dataclass whose type hints hold limits.
    """
    return [*limit_problems(type(section), section, ""), *_conflicts(section)]


def _conflicts(root: Any) -> Iterator[str]:
    for key, section in _sections(root, ""):
        if hasattr(section, "conflicts"):
            yield from (f"{key}{text}" for text in section.conflicts())


def _sections(section: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(its key with a dot behind it, the section), for a section and those within it."""
    yield key, section
    for name, value in vars(section).items():
        if is_dataclass(value):
            yield from _sections(value, f"{key}{name}.")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if is_dataclass(item):
                    yield from _sections(item, f"{key}{name}[{i}].")


def completeness_problems(recipe: Recipe) -> list[str]:
    """What a run needs and the recipe does not say: models, prompts, labels, answers."""
    problems = [] if recipe.student.model else ["student.model: no value given; expected a model"]
    problems += _guard_problems(recipe.guard, "guard.")
    if recipe.guard.kind == "same":
        problems.append("guard.kind: is same, which only the judge can be")
    if recipe.judge.kind != "same":
        problems += _guard_problems(recipe.judge, "judge.")
    asked = recipe.synthesis.prompts or recipe.evaluation.suites or recipe.evaluation.sources
    if not asked:
        problems.append("synthesis.prompts: is empty; expected one prompt source or more")
    for i, suite in enumerate(recipe.evaluation.suites):
        if not suite.name:
            problems.append(f"evaluation.suites[{i}].name: no value given; expected a suite's name")
    for key, section in _sections(recipe, ""):
        if isinstance(section, PromptSource) and not section.path.startswith("mini:"):
            problems += _source_problems(recipe, section, key)
    return problems


def _guard_problems(guard: GuardConfig | GuardModel, key: str) -> list[str]:
    members = guard.members if isinstance(guard, GuardConfig) else []
    if guard.kind == "majority":
        problems = [
            text
            for i, member in enumerate(members)
            for text in _guard_problems(member, f"{key}members[{i}].")
        ]
        if len(members) < 2:
            problems.append(
                f"{key}members: has {len(members)}; a majority needs two guards or more"
            )
        return problems
    if members:
        return [f"{key}members: only a guard of kind majority has members"]
    needs_model = not guard.url or guard.api != "chat"
    if not guard.is_matcher and needs_model and not guard.model:
        return [f"{key}model: no value given; expected a model, or {key}kind refusal-match"]
    if guard.url and not (guard.model or guard.served_name):
        return [f"{key}served_name: no value given; expected the server's name for its model"]
    if guard.url and guard.api == "chat" and (guard.is_matcher or guard.kind == "wildguard"):
        return [f"{key}api: {guard.kind} has no chat template; expected completions or tokens"]
    if guard.authors_compat and (guard.kind != "llama-guard" or guard.url):
        return [f"{key}authors_compat: is only for a llama-guard that runs here"]
    return []


def _source_problems(recipe: Recipe, source: PromptSource, key: str) -> list[str]:
    problems = []
    if not source.path:
        problems.append(f"{key}path: no value given; expected a file, hf:<dataset> or mini:<split>")
    of_synthesis = key.startswith("synthesis.")
    if of_synthesis and recipe.synthesis.method == "external" and not source.response_column:
        problems.append(f"{key}response_column: no value given; expected the responses' column")
    if of_synthesis and not (source.label or source.label_column):
        problems.append(f"{key}label: no value given; expected label or label_column")
    if key.startswith("evaluation.reasoning") and not source.answer_column:
        problems.append(f"{key}answer_column: no value given; expected the gold answers' column")
    return problems
