"""study.html: one page for people, made from results.json and from nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinksafe_jax.evaluation import paper_columns
from thinksafe_jax.report import interval, page_environment, signed
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.studies import study_plots
from thinksafe_jax.studies.findings import findings
from thinksafe_jax.studies.study_file import INITIAL
from thinksafe_jax.studies.units import STAGES

TEMPLATE = "study.html.jinja"
TITLES = {
    "harm": ("Harm", "lower is better"),
    "over_refusal": ("Over-refusal", "lower is better"),
    "reasoning": ("Reasoning", "higher is better"),
    "unparsed": ("Unparsed", "answers to harmful prompts that cannot be read"),
    "unparsed_harmless": ("Unparsed, harmless", "answers to harmless prompts that cannot be read"),
}
_PLOTTED = ("harm", "over_refusal", "reasoning")


def write_page(results: Mapping[str, Any], file: Path) -> None:
    """Writes the page; the same results give the same bytes."""
    atomic_write(file, render(results))


def render(results: Mapping[str, Any]) -> str:
    """The study as one HTML page without a single outside resource or script."""
    measures = [name for name in TITLES if any(name in m["measures"] for m in results["methods"])]
    figures = {
        "plane": study_plots.plane_plot(results),
        "measures": {
            name: study_plots.measure_plot(results, name, f"{TITLES[name][0]} of every method")
            for name in _PLOTTED
        },
        "flops": study_plots.cost_plot(results, "flops", "FLOPs of a run by stage"),
        "seconds": study_plots.cost_plot(results, "seconds", "Seconds of a run by stage"),
        "curves": study_plots.curves_plot(results),
    }
    template = page_environment(Path(__file__).parent).get_template(TEMPLATE)
    return template.render(
        results=results,
        titles=TITLES,
        measures=measures,
        suites=_suites(results),
        rows=[_row(number, m, measures) for number, m in enumerate(results["methods"])],
        costs=_cost_rows(results),
        findings=findings(results),
        figures=figures,
        published=any(m["published"] for m in results["methods"]),
        paper=_paper_rows(results),
        notes=_notes(results),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _cell(estimate: Mapping | None, published: float | None = None) -> dict[str, str]:
    """A mean with its spread and interval, as text."""
    if not estimate or estimate["value"] is None:
        return {"value": "–", "interval": "", "spread": "", "paper": _paper(published)}
    return {
        "value": _percent(estimate["value"]),
        "interval": interval(estimate),
        "spread": "" if estimate["sd"] is None else f"± {_percent(estimate['sd'])}",
        "paper": _paper(published),
    }


def _paper(value: float | None) -> str:
    return "" if value is None else f"paper {_percent(value)}"


def _change(estimate: Mapping | None) -> dict[str, str] | None:
    if not estimate or estimate["value"] is None:
        return None
    shows = estimate["low"] > 0 or estimate["high"] < 0
    ends = interval(estimate, "{:+.1f}")
    return {"value": signed(estimate["value"]), "interval": ends, "shows": shows}


def _row(number: int, method: Mapping, measures: list[str]) -> dict[str, Any]:
    published = method["published"] or {}
    return {
        "number": number,
        "name": method["name"],
        "setting": method["setting"] or "no setting could be measured",
        "seeds": len(method["evaluated_seeds"]),
        "cells": {
            name: _cell(method["measures"].get(name), published.get(name)) for name in measures
        },
        "against": {name: _change(method["against_reference"].get(name)) for name in _PLOTTED},
        "against_initial": {
            name: _change(method["against_initial"].get(name)) for name in _PLOTTED
        },
        "settings": method["settings"],
        "suites": {name: _cell(estimate) for name, estimate in method["suites"].items()},
    }


def _suites(results: Mapping) -> list[dict[str, Any]]:
    """The suites, where a measure is made of several."""
    kinds = [suite["kind"] for suite in results["suites"].values()]
    several = any(kinds.count(kind) > 1 for kind in kinds)
    return [{"name": name, **suite} for name, suite in results["suites"].items() if several]


def _paper_rows(results: Mapping) -> dict[str, Any] | None:
    """The paper's columns, and for each method that has any the paper's figures and the study's."""
    columns = {column.key: column.title for column in paper_columns()}
    rows = [
        (f"{number}  {method['name']}", what, [_in_table(values.get(key)) for key in columns])
        for number, method in enumerate(results["methods"])
        for what, values in (("study", method["columns"]), ("paper", method["paper_columns"]))
        if method["paper_columns"]
    ]
    return {"columns": list(columns.values()), "rows": rows} if rows else None


def _in_table(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cost_rows(results: Mapping) -> list[dict[str, Any]]:
    """Counts of a run of the chosen setting, and of the whole study in the last rows."""
    named = [
        (f"{number}  {m['name']}", _sharing(m), m["cost"])
        for number, m in enumerate(results["methods"])
        if m["cost"]
    ]
    totals = results["totals"]
    cost, spent = totals["cost"], totals.get("spent")  # studies before had nothing to share
    shares = spent and spent != cost
    if cost:
        each = "each as if alone" if shares else ""
        named.append((f"all {totals['runs']} runs together", each, cost))
    if shares:
        named.append((f"all {totals['runs']} runs together", "shared samples counted once", spent))
    return [
        {
            "name": name,
            "hint": hint,
            **{
                key: f"{cost[key]:,.0f}"
                for key in ("sampled_tokens", "guard_calls", "steps", "trained_tokens")
            },
            "flops": f"{sum(cost['flops'].values()):.2e}",
            "seconds": {stage: f"{cost['seconds'][stage]:,.0f}" for stage in STAGES},
        }
        for name, hint, cost in named
    ]


def _sharing(method: Mapping) -> str:
    settings = method.get("shared_by", 1)
    return f"samples shared by {settings} settings" if settings > 1 else ""


def _notes(results: Mapping) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    if results["judge"] == "mini":
        notes.append(
            "Mini is a toy world with a tiny student and an exact judge. It can tell methods apart "
            "in that world; it says nothing about large models."
        )
    if results["judge"] == "refusal-match":
        notes.append(
            "The judge looks for refusal phrases and understands nothing: harm rates are "
            "indications, not measurements."
        )
    short = [
        m["name"]
        for m in results["methods"]
        if m["name"] != INITIAL and len(m["evaluated_seeds"]) < len(results["seeds"])
    ]
    if short:
        notes.append(f"Not all seeds could be run: {', '.join(short)}. See “What was dropped”.")
    return notes
