"""Rates and rows by where they come from: each source of prompts, each category of the guard."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from thinksafe_jax.data import KINDS, LISTS
from thinksafe_jax.report.run_files import STEPS, RunFiles
from thinksafe_jax.report.suite_rows import interval, percent


@dataclass(frozen=True)
class SourceRow:
    """The rate of one list over the prompts of one source: step -> (value, interval and n)."""

    rate: str
    source: str
    cells: Mapping[str, tuple[str, str] | None]


def source_rows(run: RunFiles) -> list[SourceRow]:
    """A row per list of the recipe and source, where a list has several sources."""
    rows = []
    for name in LISTS:
        by_step = {step: _by_source(run, step, name) for step in STEPS}
        sources = dict.fromkeys(source for rates in by_step.values() for source in rates)
        if len(sources) < 2:
            continue
        for source in sources:
            cells = {step: _cell(rates.get(source)) for step, rates in by_step.items()}
            rows.append(SourceRow(KINDS[name].title, source, cells))
    return rows


def _by_source(run: RunFiles, step: str, name: str) -> Mapping[str, dict]:
    return run.evaluation.get(step, {}).get("by_source", {}).get(name, {})


def _cell(rate: dict | None) -> tuple[str, str] | None:
    if not rate:
        return None
    return percent(rate["value"]), f"{interval(rate)}, n {rate['n']:,}".removeprefix(", ")


def category_rows(run: RunFiles) -> list[tuple[str, str, str]]:
    """(label, category, rows) of the sampled rows that the guard called unsafe, most first.

    A row in several categories counts in each. Empty where the guard names none.
    """
    label_of = {(row["id"], row["attempt"]): row["label"] for row in run.samples}
    counts = Counter(
        (label_of.get((verdict["id"], verdict["attempt"]), "unknown"), str(category))
        for verdict in run.verdicts
        if verdict["verdict"] == "unsafe"
        for category in verdict.get("categories") or ()
    )
    return [(label, category, f"{n:,}") for (label, category), n in counts.most_common()]
