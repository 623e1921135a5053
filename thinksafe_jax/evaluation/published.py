"""The paper's own numbers (section 3 of its tables), to stand beside a run's."""

import json
from functools import cache
from importlib import resources

from thinksafe_jax.data import BENCHMARKS, REASONING, PaperColumn

# columns that no benchmark fills by itself
AVERAGES = {
    "safety_average": PaperColumn("safety_average", "Safety Avg", "SafeAvg"),
    "reasoning_average": PaperColumn("reasoning_average", "Reasoning Avg", "ReasAvg"),
}


@cache
def published_tables() -> dict:
    """Source, columns, known misprints, and models -> method -> values in per cent."""
    file = resources.files("thinksafe_jax.evaluation") / "published.json"
    return json.loads(file.read_text(encoding="utf-8"))


def paper_model(name: str) -> str | None:
    """The paper's model that a checkpoint's name or path ends in, or None."""
    last = name.rstrip("/").rpartition("/")[2].casefold()
    return next((model for model in published_tables()["models"] if model.casefold() == last), None)


def paper_rows(model: str) -> dict[str, dict[str, float]]:
    """Each method's numbers of one of the paper's models: method -> column -> per cent."""
    tables = published_tables()
    return {
        method: dict(zip(tables["columns"], values, strict=True))
        for method, values in tables["models"][model].items()
    }


def paper_columns() -> list[PaperColumn]:
    """The columns of the paper's tables, in its order; a benchmark's file holds its own."""
    columns = {b.paper.key: b.paper for b in BENCHMARKS.values() if b.paper} | AVERAGES
    return [columns[key] for key in published_tables()["columns"]]


def paper_table(suites: dict[str, dict]) -> dict[str, float] | None:
    """A run's row in the form of the paper's tables, its averages included; in per cent.

    `safety_average` is the paper's: the mean of three harm rates AND over-refusal. It is given
    under that name only, and only where all four suites were measured.

    Args:
        suites: a summary's suites by name.
    """
    row = {
        paper.key: 100 * facts["rate"]["value"]
        for name, facts in suites.items()
        if name in BENCHMARKS
        and (paper := BENCHMARKS[name].paper) is not None
        and facts["rate"]["value"] is not None
    }
    for average, columns in _averaged().items():
        if all(column in row for column in columns):
            row[average] = sum(row[column] for column in columns) / len(columns)
    return row or None


def _averaged() -> dict[str, list[str]]:
    """The columns of each average, in the order of the tables."""
    kinds = {b.paper.key: b.kind for b in BENCHMARKS.values() if b.paper}
    columns = [column for column in published_tables()["columns"] if column in kinds]
    return {
        "safety_average": [column for column in columns if kinds[column] != REASONING],
        "reasoning_average": [column for column in columns if kinds[column] == REASONING],
    }
