"""Recipes beside each other: with the paper's numbers, and with what a run directory began with."""

import dataclasses
import difflib
from typing import Any

import yaml

from thinksafe_jax.config.recipe import Recipe
from thinksafe_jax.errors import quoted

# Changing these between two starts of one run directory cannot change any row or weight; another
# mesh or draft only their last bits, another server of the same model likewise.
RESUMABLE_KEYS = (
    "name",
    "run_dir",
    "mesh",
    "engine.draft",
    "engine.draft_tokens",
    "guard.max_unparsed",
    "on_policy.teacher_memory",
    "on_policy.server.url",
    "on_policy.server.adapter_folder",
    "on_policy.server.served_folder",
    "on_policy.server.concurrency",
    "on_policy.server.timeout_seconds",
    "on_policy.server.retries",
    "training.evaluate_every",
    "training.checkpoint_every",
    "training.checkpoint_minutes",
    "training.keep_checkpoints",
    "training.trackers",
)

_PAPER_SECTIONS = ("synthesis.", "training.", "evaluation.sampling.")
_PAPER_KEYS = ("student.dtype", "guard.kind", "engine.kv_dtype")
# prompts are the user's; the others decide how work is cut up, not what is computed
_NOT_OF_THE_PAPER = (
    "synthesis.prompts",
    "training.micro_batch_size",
    "training.remat",
    *(key for key in RESUMABLE_KEYS if key.startswith("training.")),
)


def flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted keys to values; lists and mappings stay whole."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            values |= {f"{field.name}.{k}": v for k, v in flat(value).items()}  # type: ignore[arg-type]
        else:
            values[field.name] = value
    return values


def paper_differences(recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """Every setting of the method that is not the paper's: (key, the paper's value, the recipe's).

    Covers steering, sampling, training and the guard's kind (paper 5.1, B.1). The paper's values
    are the dataclass defaults; its `top_k` is the one for Qwen3 (0 for R1-Distill).
    """
    ours, paper = flat(recipe), flat(Recipe())
    keys = [k for k in paper if k.startswith(_PAPER_SECTIONS) or k in _PAPER_KEYS]
    return [
        (k, paper[k], ours[k]) for k in keys if ours[k] != paper[k] and k not in _NOT_OF_THE_PAPER
    ]


def to_yaml(recipe: Recipe) -> str:
    """The whole recipe, defaults included; `load_recipe` reads back an equal one."""
    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, width=100)


def diff(before: Recipe, after: Recipe, ignore: tuple[str, ...] = ()) -> str:
    """A line per changed key, `training.epochs: 3 -> 1`; empty where nothing differs.

    Args:
        ignore: dotted keys to leave out, as `RESUMABLE_KEYS`.
    """
    old, new = flat(before), flat(after)
    changed = [k for k in old if old[k] != new[k] and k not in ignore]
    return "\n".join(_change(k, old[k], new[k]) for k in changed)


def _change(key: str, old: Any, new: Any) -> str:
    if not any(dataclasses.is_dataclass(v) for v in [*_items(old), *_items(new)]):
        return f"{key}: {quoted(old, 200)} -> {quoted(new, 200)}"
    lines = difflib.unified_diff(_source_lines(old), _source_lines(new), lineterm="", n=0)
    changed = [f"  {x}" for x in list(lines)[2:] if not x.startswith("@@")]
    return "\n".join([f"{key}:", *changed])


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _source_lines(sources: list[Any]) -> list[str]:
    """`prompts[0].limit: 5` for each list item, so that a diff names what changed inside it."""
    return [
        f"[{i}].{name}: {quoted(value, 200)}"
        for i, source in enumerate(sources)
        for name, value in dataclasses.asdict(source).items()
    ]
