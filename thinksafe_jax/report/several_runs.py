"""Several runs in one page: rates side by side, paired differences, settings, and rows to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thinksafe_jax.config import flat
from thinksafe_jax.data import KINDS, LISTS
from thinksafe_jax.errors import ConfigError, InputError, shortened
from thinksafe_jax.evaluation import compare_evaluations, read_evaluation
from thinksafe_jax.report.html import page_environment
from thinksafe_jax.report.html_content import in_words
from thinksafe_jax.report.plots import COLOURS, Bar, bars_plot, list_rate
from thinksafe_jax.report.provenance import provenance
from thinksafe_jax.report.readability import has_ground
from thinksafe_jax.report.rows_to_read import examples_beside
from thinksafe_jax.report.run_files import RunFiles, read_run
from thinksafe_jax.report.short_names import short_names
from thinksafe_jax.report.suite_rows import (
    Cell,
    list_rows,
    named_rows,
    percent,
    points,
    read_facts,
)
from thinksafe_jax.report.summary import build_summary
from thinksafe_jax.storage import atomic_write, plain, shown

TEMPLATE = "several_runs.html.jinja"
_LONGEST = 24  # characters of a name beside a bar
_HUES = ("after", "benign", "note", "harmful")  # of the runs' bars, in turn


@dataclass(frozen=True)
class Column:
    """A run of the page: the name that tells it from the others, its files and its summary."""

    name: str
    run: RunFiles
    summary: dict

    @property
    def last(self) -> str:
        """The step whose figures stand for the run: after training, or of a model by itself."""
        return next((s for s in ("after", "model", "before") if self.run.evaluation.get(s)), "")


def write_several(paths: Sequence[Path], out: Path) -> None:
    """Write one HTML page on several runs; the first one is what the others are compared with.

    Raises:
        ConfigError: fewer than two runs.
        InputError: a path is no run directory, or a file in it cannot be read.
    """
    if len(paths) < 2:
        raise ConfigError("a page on several runs takes two or more run directories")
    names = short_names([str(shown(path)) for path in paths])
    runs = [read_run(path) for path in paths]
    columns = [Column(name, run, build_summary(run)) for name, run in zip(names, runs, strict=True)]
    content = page_environment().get_template(TEMPLATE).render(**_page(columns))
    atomic_write(out, content)


def _page(columns: Sequence[Column]) -> dict[str, Any]:
    """Everything that the template reads."""
    pairs, why_none = paired_rows(columns)
    return {
        "names": [column.name for column in columns],
        "notes": shared_notes(columns),
        "plot": several_plot(columns),
        "rows": rate_rows(columns),
        "pairs": pairs,
        "why_none": why_none,
        "settings": setting_rows(columns),
        "examples": examples_beside(
            {c.name: c.run.rows[c.last] for c in columns if c.last and c.run.rows[c.last]}
        ),
        "provenance": provenance_rows(columns),
    }


def shared_notes(columns: Sequence[Column]) -> list[str]:
    """What all runs say once, and what some say behind their names."""
    said: dict[str, list[str]] = {}
    for column in columns:
        for note in column.summary["notes"]:
            said.setdefault(note["text"], []).append(column.name)
    everybody = [text for text, names in said.items() if len(names) == len(columns)]
    some = [f"{', '.join(n)}: {text}" for text, n in said.items() if len(n) < len(columns)]
    return [*some, *everybody]


def rate_rows(columns: Sequence[Column]) -> list[tuple[str, str, list[Cell | None]]]:
    """(title, hint, cells) of each rate and suite: before training in each run, then after.

    Where the runs agree before training, as those of one student do, the one cell stands first.
    """
    tables = [
        {row.name: row for row in (*list_rows(c.summary), *named_rows(c.summary))} for c in columns
    ]
    rows = []
    for name in dict.fromkeys(name for table in tables for name in table):
        of_runs = [table.get(name) for table in tables]
        row = next(row for row in of_runs if row)
        before = [r.cells.get("before") if r else None for r in of_runs]
        last = [r.cells.get(c.last) if r else None for r, c in zip(of_runs, columns, strict=True)]
        hint = f"{row.metric}, {row.hint}" if row.metric else row.hint
        rows.append((row.title, hint, [*before, *last]))
    if all(len(set(cells[: len(columns)])) == 1 for _, _, cells in rows):
        rows = [(title, hint, [cells[0], *cells[len(columns) :]]) for title, hint, cells in rows]
    return rows


def several_plot(columns: Sequence[Column]) -> Markup | None:
    """A bar for each run and list of the recipe; before training the first one's."""
    bars: dict[str, list[Bar]] = {}
    for name in LISTS:
        of_list = bars.setdefault(KINDS[name].title, [])
        if columns[0].last != "before" and (rate := list_rate(columns[0].summary, "before", name)):
            of_list.append(Bar("before", COLOURS["before"], rate))
        for number, column in enumerate(columns):
            step = column.last if column.last in ("before", "after") else ""
            if step and (rate := list_rate(column.summary, step, name)):
                hue = COLOURS[_HUES[number % len(_HUES)]]
                of_list.append(Bar(shortened(column.name, _LONGEST), hue, rate))
    return bars_plot("several", bars, "Rates of each run, 95 % intervals", pitch=0.245)


def paired_rows(columns: Sequence[Column]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Each run against the first one, problem by problem; and why some cannot be compared.

    Returns:
        (run, suite, metric, first, run, difference in points, problems); sentences.
    """
    rows, problems = [], []
    for column in columns[1:]:
        try:
            first, other = (read_evaluation(str(c.run.path)) for c in (columns[0], column))
            compared = compare_evaluations(first, other)
        except InputError as error:
            problems.append(f"{column.name}: {error}")
            continue
        for c in compared:
            grounded = all(has_ground(_read(side, c.suite)) for side in (columns[0], column))
            change = points(c.difference) if grounded else "too few rows could be read"
            rates = (percent(c.left.value), percent(c.right.value))
            name = c.suite.replace("_", "-")
            rows.append((column.name, name, c.metric, *rates, change, f"{c.common:,}"))
    return rows, problems


def _read(column: Column, suite: str) -> dict | None:
    return read_facts(column.summary, column.last, suite)


def setting_rows(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Every setting in which the recipes differ, with its value in each run."""
    recipes = [flat(c.run.recipe) if c.run.recipe else {} for c in columns]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    values = {key: [in_words(plain(recipe.get(key))) for recipe in recipes] for key in keys}
    return [
        (key, of_runs)
        for key, of_runs in values.items()
        if len(set(of_runs)) > 1 and key not in ("name", "run_dir")
    ]


def provenance_rows(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Begin, end, seed, versions and hashes of each run; what all lack is left out."""
    tables: list[Mapping[str, str]] = [
        {"folder": str(shown(c.run.path)), **dict(provenance(c.run))} for c in columns
    ]
    names = dict.fromkeys(name for table in tables for name in table)
    return [(name, [table.get(name, "–") for table in tables]) for name in names]
