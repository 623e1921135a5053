"""Suites as rows of text: of the recipe's own lists and of named suites alike.

HTML report, terminal tables, plots and the model card show these rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from thinksafe_jax.data import KINDS, LISTS, RATES, REASONING
from thinksafe_jax.intervals import Rate
from thinksafe_jax.report.run_files import ALL_STEPS, STEPS

AGREEMENT = "guard_agreement"
# rates at the top of an evaluation: heading, and which way is better
LIST_TITLES = {RATES[name]: (KINDS[name].title, KINDS[name].hint) for name in LISTS}
LIST_TITLES |= {AGREEMENT: ("Guard agreement", "higher is better")}


@dataclass(frozen=True)
class Cell:
    """A rate as text, with its interval, its n and what qualifies it."""

    value: str
    interval: str
    n: str = ""
    bounds: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuiteRow:
    """One suite in every step of a run.

    Attributes:
        name: of the suite; of a recipe's list and of the guard's agreement, of its rate.
        title, metric, hint: its heading, what is measured, and which way is better.
        cells: step -> its rate; None where it was not measured.
        n: questions × samples; of the recipe's lists the rows behind each rate.
        change: after - before, of the recipe's lists.
    """

    name: str
    title: str
    metric: str
    hint: str
    cells: Mapping[str, Cell | None]
    n: str
    change: Cell | None = None


def percent(value: float | None) -> str:
    """`58.2 %`."""
    return "–" if value is None else f"{100 * value:.1f} %"


def signed(value: float, pattern: str = "{:+.1f}") -> str:
    """A share in points with a true minus sign."""
    return pattern.format(100 * value).replace("-", "\u2212")


def interval(rate: Mapping, pattern: str = "{:.1f}") -> str:
    """`58.2 to 66.4`, in per cent."""
    if rate["value"] is None:
        return ""
    low, high = (signed(rate[end], pattern) for end in ("low", "high"))
    return f"{low} to {high}"


def points(rate: Rate) -> str:
    """`+3.1 (−0.5 to +6.8)`, in points."""
    if rate.value is None or rate.low is None or rate.high is None:
        return "–"
    return f"{signed(rate.value)} ({signed(rate.low)} to {signed(rate.high)})"


def measured_steps(summary: Mapping) -> list[str]:
    """The steps in which a suite was measured, in their order."""
    return [step for step in ALL_STEPS if summary["suites"].get(step)]


def named_suites(suites: Mapping[str, dict]) -> dict[str, dict]:
    """The facts of the named suites of one evaluation; the recipe's own lists stand before them."""
    return {name: facts for name, facts in suites.items() if name not in LISTS}


def list_rows(summary: Mapping) -> list[SuiteRow]:
    """A row per list of the recipe with the change; then the guard's agreement, where measured."""
    rows = []
    for name, (title, hint) in LIST_TITLES.items():
        cells = {step: _list_cell(summary[step] or {}, name) for step in STEPS}
        counts = [cell.n for cell in cells.values() if cell]
        if any(n != "0" for n in counts):
            n, change = " / ".join(dict.fromkeys(counts)), (summary["change"] or {}).get(name)
            rows.append(SuiteRow(name, title, "", hint, cells, n, _change_cell(change)))
    return rows


def named_rows(summary: Mapping) -> list[SuiteRow]:
    """A row per named suite: its rate in each step, and what qualifies it."""
    steps = measured_steps(summary)
    suites = {step: named_suites(summary["suites"][step]) for step in steps}
    rows = []
    for name in dict.fromkeys(name for of_step in suites.values() for name in of_step):
        facts_of = {step: of_step.get(name) for step, of_step in suites.items()}
        facts = next(facts for facts in facts_of.values() if facts)
        samples = facts["rows"] // max(1, facts["questions"])
        cells = {step: _cell(of_step) if of_step else None for step, of_step in facts_of.items()}
        n = f"{facts['questions']:,} × {samples}"
        rows.append(SuiteRow(name, name, facts["metric"], better(facts), cells, n))
    return rows


def better(facts: Mapping) -> str:
    """Which way is better, in words."""
    return f"{'lower' if facts['lower_is_better'] else 'higher'} is better"


def _list_cell(rates: Mapping, name: str) -> Cell | None:
    """The cell of a rate at the top of an evaluation; reasoning has no bounds, they are wrong."""
    if not rates.get(name):
        return None
    bounds = None if name == RATES[REASONING] else rates.get("bounds", {}).get(name)
    return _cell({"rate": rates[name], "bounds": bounds})


def _change_cell(change: Mapping | None) -> Cell | None:
    if not change or change["value"] is None:
        return None
    return Cell(signed(change["value"]), interval(change, "{:+.1f}"))


def _cell(facts: Mapping) -> Cell:
    """A rate as text, with bounds where unparsed rows leave it open, and its counts."""
    rate, bounds = facts["rate"], facts.get("bounds")
    is_open = bounds and bounds["n"] and bounds["high"] > bounds["low"]
    return Cell(
        percent(rate["value"]),
        interval(rate),
        f"{rate['n']:,}",
        f"unparsed: {interval({'value': 0, **bounds})}" if bounds and is_open else "",
        tuple(_notes(facts)),
    )


def _notes(facts: Mapping) -> list[str]:
    names = ("unparsed", "truncated", "timeout")
    notes = [f"{facts[name]:,} {name}" for name in names if facts.get(name)]
    if compat := facts.get("skythought_compat"):
        notes.append(f"authors' scorer: {percent(compat['value'])}")
    for k, rate in facts.get("pass_at_k", {}).items():
        if k != "1":
            notes.append(f"pass@{k}: {percent(rate['value'])}")
    for scope, rate in facts.get("by_scope", {}).items():
        notes.append(f"{scope}: {percent(rate['value'])} ({interval(rate)})")
    return notes
