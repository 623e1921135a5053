"""What the report is made of: the files of a run directory, and nothing else.

A report can be made at any moment of a run; what is not there yet is None or empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from thinksafe_jax.config import Recipe
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import read_scored_rows
from thinksafe_jax.json_files import load_unique
from thinksafe_jax.report.file_forms import (
    COUNTS,
    EVALUATION,
    MANIFEST,
    REFUSALS,
    measurement_problem,
    read_figures,
)
from thinksafe_jax.report.other_trainings import OtherTraining, read_trainings
from thinksafe_jax.runs import RowStore, begun_recipe, data_folder
from thinksafe_jax.storage import shown
from thinksafe_jax.synthesis import SAMPLE_FIELDS, RefusalCounts

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
    refusals: dict[str, RefusalCounts] = field(default_factory=dict)
    rollouts: dict[int, list[dict]] = field(default_factory=dict)  # first, middle, last step
    evaluation: dict[str, dict] = field(default_factory=dict)  # before, after
    rows: dict[str, list[dict]] = field(default_factory=dict)  # evaluation rows: before, after
    trainings: list[OtherTraining] = field(default_factory=list)  # beside the run's own


def read_run(path: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        InputError: not a run directory, or a file in it that cannot be read; names the file.
        ConfigError: its config.yaml is not a recipe.
    """
    if not path.is_dir() or not any((path / name).exists() for name in _MARKS):
        raise InputError(f"{shown(path)}: no run directory (none of {', '.join(_MARKS)} in it)")
    config = path / "config.yaml"
    folder, data = path / "evaluation", data_folder(path)
    return RunFiles(
        path=path,
        recipe=begun_recipe(path) if config.exists() else None,
        manifest=read_figures(path / "manifest.json", MANIFEST, "delete the file") or {},
        metrics=_metrics(path / "metrics.jsonl"),
        samples=_rows(data / "samples", SAMPLE_FIELDS),
        verdicts=_rows(data / "verdicts", {"verdict": str, "guard": str}),
        counts=read_figures(data / "dataset/counts.json", COUNTS, "run `filter` again"),
        refusals=read_refusals(path),
        rollouts=_rollouts(path / "rollouts"),
        evaluation=read_evaluations(path, ALL_STEPS),
        rows={s: _evaluation_rows(folder / s / "rows.jsonl") for s in ALL_STEPS},
        trainings=read_trainings(path),
    )


def read_refusals(path: Path) -> dict[str, RefusalCounts]:
    """{source: counts} of the benign rows that refuse; empty where no dataset says it.

    Raises:
        InputError: the file is damaged.
    """
    file = data_folder(path) / "dataset/refusals.json"
    figures = read_figures(file, REFUSALS, "run `filter` again") or {}
    names = [item.name for item in fields(RefusalCounts)]
    return {name: RefusalCounts(*(of[n] for n in names)) for name, of in figures.items()}


def read_evaluations(path: Path, steps: Sequence[str]) -> dict[str, dict]:
    """{step: its figures} of the evaluations that a run directory holds.

    Raises:
        InputError: a file is damaged, or of another version.
    """
    folder = path / "evaluation"
    way_out = f"remove {shown(folder)} and evaluate again"
    files = {step: read_figures(folder / f"{step}.json", EVALUATION, way_out) for step in steps}
    return {step: figures for step, figures in files.items() if figures}


_MARKS = ("config.yaml", "manifest.json", "samples", "evaluation")


def _rows(folder: Path, fields: Mapping[str, type]) -> list[dict]:
    store = RowStore(folder, key=("id", "attempt"), fields=fields)
    return store.read() if folder.is_dir() else []


def _rollouts(folder: Path) -> dict[int, list[dict]]:
    """Rows of the first, the middle and the last step of an on-policy run, with their verdicts."""
    steps = sorted(folder.glob("step-*"))
    chosen = {n: steps[n] for n in sorted({0, len(steps) // 2, len(steps) - 1}) if steps}
    return {n: _judged_rollouts(step) for n, step in chosen.items()}


def _judged_rollouts(step: Path) -> list[dict]:
    key, fields = ("id", "step", "sample"), {"prompt": str, "label": str, "response": str}
    samples, verdicts = step / "samples", step / "verdicts"
    rows = RowStore(samples, key=key, fields=fields).read() if samples.is_dir() else []
    judged = RowStore(verdicts, key=key, fields={"verdict": str})
    words = {tuple(row[k] for k in key): row["verdict"] for row in judged.rows()}
    return [row | {"verdict": words.get(tuple(row[k] for k in key))} for row in rows]


def _evaluation_rows(file: Path) -> list[dict]:
    return list(read_scored_rows(file)) if file.exists() else []


def _metrics(file: Path) -> list[dict]:
    """Metrics are a log: a line that a kill tore is left out."""
    records = []
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    for line in text.split("\n"):
        try:
            record = load_unique(line, nan=True) if line.strip() else None
        except ValueError:
            continue
        if record is not None and not measurement_problem(record):
            records.append(record)
    return records
