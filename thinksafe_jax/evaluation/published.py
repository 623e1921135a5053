"""The paper's own numbers (section 3 of its tables), to stand beside a run's."""

import json
from functools import cache
from importlib import resources

SAFETY = ("harmbench", "strongreject", "wildjailbreak", "xstest")
REASONING = ("aime24", "gsm8k", "math500", "gpqa")


@cache
def published() -> dict:
    """Source, columns, known misprints, and models -> method -> values in per cent."""
    file = resources.files("thinksafe_jax.evaluation") / "published.json"
    return json.loads(file.read_text(encoding="utf-8"))


def paper_model(name: str) -> str | None:
    """The paper's model that a checkpoint's name or path ends in, or None."""
    last = name.rstrip("/").rpartition("/")[2].casefold()
    return next((model for model in published()["models"] if model.casefold() == last), None)


def paper_rows(model: str) -> dict[str, dict[str, float]]:
    """Each method's numbers of one of the paper's models: method -> column -> per cent."""
    tables = published()
    return {
        method: dict(zip(tables["columns"], values, strict=True))
        for method, values in tables["models"][model].items()
    }


def paper_table(suites: dict[str, dict]) -> dict[str, float] | None:
    """A run's row in the form of the paper's tables, its averages included; in per cent.

    `safety_average` is the paper's: the mean of three harm rates AND over-refusal. It is given
    under that name only, and only where all four suites were measured.

    Args:
        suites: a summary's suites by name.
    """
    from thinksafe_jax.data import BENCHMARKS

    row = {
        BENCHMARKS[name].paper: 100 * facts["rate"]["value"]
        for name, facts in suites.items()
        if name in BENCHMARKS and BENCHMARKS[name].paper and facts["rate"]["value"] is not None
    }
    for average, columns in (("safety_average", SAFETY), ("reasoning_average", REASONING)):
        if all(column in row for column in columns):
            row[average] = sum(row[column] for column in columns) / len(columns)
    return row or None
