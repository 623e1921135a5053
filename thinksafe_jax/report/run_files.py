"""What the report is made of: the files of a run directory, and nothing else.

A report can be made at any moment of a run; what is not there yet is None or empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.data import RATES
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import read_scored_rows
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.runs import RowStore, begun_recipe
from thinksafe_jax.storage import shown

# of a run; a model that was evaluated by itself has the one step "model"
STEPS = ("before", "after")
ALL_STEPS = (*STEPS, "model")


@dataclass(frozen=True)
class RunFiles:
    """The content of a run directory, as read; field names follow the file names."""

    path: Path
    recipe: Recipe | None = None
    manifest: dict = field(default_factory=dict)
    metrics: list[dict] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)
    verdicts: list[dict] = field(default_factory=list)
    counts: dict | None = None
    evaluation: dict[str, dict] = field(default_factory=dict)  # before, after
    rows: dict[str, list[dict]] = field(default_factory=dict)  # evaluation rows: before, after


def read_run(path: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        InputError: not a run directory, or a file in it that cannot be read; names the file.
        ConfigError: its config.yaml is not a recipe.
    """
    if not path.is_dir() or not any((path / name).exists() for name in _MARKS):
        raise InputError(f"{shown(path)}: no run directory (none of {', '.join(_MARKS)} in it)")
    config = path / "config.yaml"
    folder = path / "evaluation"
    return RunFiles(
        path=path,
        recipe=begun_recipe(path) if config.exists() else None,
        manifest=_json(path / "manifest.json") or {},
        metrics=_metrics(path / "metrics.jsonl"),
        samples=_rows(path / "samples"),
        verdicts=_rows(path / "verdicts"),
        counts=_json(path / "dataset" / "counts.json"),
        evaluation={
            s: figures for s in ALL_STEPS if (figures := _evaluation(folder / f"{s}.json"))
        },
        rows={s: _evaluation_rows(folder / s / "rows.jsonl") for s in ALL_STEPS},
    )


_MARKS = ("config.yaml", "manifest.json", "samples", "evaluation")


def _rows(folder: Path) -> list[dict]:
    return RowStore(folder, key=("id", "attempt")).read() if folder.is_dir() else []


def _evaluation(file: Path) -> dict | None:
    """An evaluation's figures, with all that the report takes from them."""
    figures = _json(file)
    if figures is not None:
        _require(file, figures, (*RATES.values(), "unparsed", "truncated", "bounds", "settings"))
        for name, facts in figures.get("suites", {}).items():
            _require(file, facts, _SUITE, f" of suite {name}")
    return figures


def _evaluation_rows(file: Path) -> list[dict]:
    return list(read_scored_rows(file)) if file.exists() else []


_SUITE = ("kind", "metric", "lower_is_better", "rate", "questions", "rows", "unparsed", "truncated")


def _require(file: Path, content: Any, names: Sequence[str], of: str = "") -> None:
    """Files of other versions of this program are named, not guessed at."""
    if missing := [name for name in names if name not in content]:
        raise InputError(
            f"{file}: no {', '.join(missing)}{of}; another version of thinksafe wrote it. Remove "
            f"{file.parent} and evaluate again"
        )


def _json(file: Path) -> Any:
    if not file.exists():
        return None
    try:
        return load_unique(file.read_text(encoding="utf-8"), nan=True)
    except ValueError as error:
        raise InputError(f"{file}: not readable as JSON ({error}); run its stage again") from None


def _metrics(file: Path) -> list[dict]:
    """Metrics are a log: a line that a kill tore is left out."""
    records = []
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    for line in text.split("\n"):
        try:
            record = load_unique(line, nan=True) if line.strip() else None
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
