"""The trainings of a run side by side, as rows of text: settings, losses, rates after training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.report.other_trainings import OtherTraining, differing_settings
from thinksafe_jax.report.suite_rows import Cell, SuiteRow, list_rows, named_rows

_LOSSES = {"last_loss": "Training loss at the end", "heldout_loss": "Loss on held-out rows"}


@dataclass(frozen=True)
class TrainingRow:
    """A setting, a loss or a rate in each training."""

    title: str
    hint: str
    cells: Sequence[Cell | None]


def training_rows(
    recipe: Recipe | None, summary: dict, others: Sequence[OtherTraining]
) -> list[TrainingRow]:
    """A row for each differing setting, loss and rate; the run's own training comes first."""
    if recipe is None or not others:
        return []
    summaries = [summary, *(other.summary for other in others)]
    rows = [
        TrainingRow(key, "", [Cell(_text(value), "") for value in values])
        for key, values in differing_settings(recipe, others).items()
    ]
    for name, title in _LOSSES.items():
        losses = [((of or {}).get("training") or {}).get(name) for of in summaries]
        if any(loss is not None for loss in losses):
            cells = [None if loss is None else Cell(f"{loss:.4g}", "") for loss in losses]
            rows.append(TrainingRow(title, "lower is better", cells))
    return [*rows, *_rates([_rows(of) for of in summaries])]


def _rows(summary: dict | None) -> Mapping[str, SuiteRow]:
    rows = [] if summary is None else [*list_rows(summary), *named_rows(summary)]
    return {row.name: row for row in rows}


def _rates(of_trainings: Sequence[Mapping[str, SuiteRow]]) -> list[TrainingRow]:
    names = {name: row for rows in of_trainings for name, row in rows.items()}
    return [
        TrainingRow(
            f"{row.title}, after",
            ", ".join(filter(None, (row.metric, row.hint))),
            [rows[name].cells.get("after") if name in rows else None for rows in of_trainings],
        )
        for name, row in names.items()
    ]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
