"""The trainings that a run directory keeps beside its own, and the settings that differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.config import RESUMABLE_KEYS, Recipe, flat
from thinksafe_jax.report.file_forms import SUITE, Each, read_figures
from thinksafe_jax.runs import begun_recipe, training_folders
from thinksafe_jax.storage import shown

_OBJECT = (dict, type(None))
_SUMMARY = {
    "schema_version": int,
    "suites": Each(Each(SUITE)),
    **dict.fromkeys(("before", "after", "change", "training"), _OBJECT),
}


@dataclass(frozen=True)
class OtherTraining:
    """A training beside the run's own.

    Attributes:
        summary: of its report; None where it has none yet.
    """

    name: str
    recipe: Recipe
    summary: dict[str, Any] | None


def read_trainings(path: Path) -> list[OtherTraining]:
    """The trainings that a run directory keeps beside its own.

    Raises:
        ConfigError, InputError: a config.yaml or summary.json of one that cannot be read.
    """
    return [
        OtherTraining(
            folder.name,
            begun_recipe(folder),
            read_figures(
                folder / "report/summary.json", _SUMMARY, f"thinksafe report {shown(folder)}"
            ),
        )
        for folder in training_folders(path)
    ]


def differing_settings(recipe: Recipe, others: Sequence[OtherTraining]) -> dict[str, list[Any]]:
    """{key: its value in the run, then in each of the others} of what is not the same in all."""
    values = [flat(recipe), *(flat(other.recipe) for other in others)]
    keys = [key for key in values[0] if key not in RESUMABLE_KEYS]
    table = {key: [of[key] for of in values] for key in keys}
    return {key: row for key, row in table.items() if any(value != row[0] for value in row)}


def summarise_trainings(recipe: Recipe | None, others: Sequence[OtherTraining]) -> list[dict]:
    """What summary.json says of the other trainings."""
    settings = differing_settings(recipe, others) if recipe and others else {}
    return [
        {
            "name": other.name,
            "settings": {key: row[number] for key, row in settings.items()},
            "training": (other.summary or {}).get("training"),
            "after": (other.summary or {}).get("after"),
        }
        for number, other in enumerate(others, start=1)
    ]
