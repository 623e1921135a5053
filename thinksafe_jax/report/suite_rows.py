"""Suites as rows of text: of the recipe's own lists and of named suites alike.

HTML report, terminal tables, plots and the model card show these rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from thinksafe_jax.data import KINDS, LISTS, RATES, REASONING
from thinksafe_jax.intervals import Rate, difference
from thinksafe_jax.report.readability import has_ground
from thinksafe_jax.report.run_files import ALL_STEPS, STEPS

AGREEMENT, READABLE = "guard_agreement", "readable"
# rates at the top of an evaluation: heading, and which way is better
LIST_TITLES = {RATES[name]: (KINDS[name].title, KINDS[name].hint) for name in LISTS}
LIST_TITLES |= {
    READABLE: ("Readable responses", "higher is better"),
    AGREEMENT: ("Guard agreement", "higher is better"),
}


@dataclass(frozen=True)
class Cell:
    """A rate as text, with its interval, its n and what qualifies it.

    Attributes:
        sign: why the value is bounds and no rate, as "12 of 250 rows could be read"; else empty.
    """

    value: str
    interval: str
    n: str = ""
    bounds: str = ""
    notes: tuple[str, ...] = ()
    sign: str = ""


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
    """A row per list of the recipe with the change; then what could be read, and the agreement.

    Where too few rows of a list could be read its bounds stand there, and no change.
    """
    rows = []
    for name, (title, hint) in LIST_TITLES.items():
        cells = {step: _list_cell(summary, step, name) for step in STEPS}
        counts = [cell.n for cell in cells.values() if cell]
        if any(n != "0" for n in counts):
            change = _change_cell(_change(summary, name))
            if any(cell.sign for cell in cells.values() if cell):
                change = None
            n = " / ".join(dict.fromkeys(counts))
            rows.append(SuiteRow(name, title, "", hint, cells, n, change))
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
        cells = {
            step: _cell(of_step, read_facts(summary, step, name)) if of_step else None
            for step, of_step in facts_of.items()
        }
        n = f"{facts['questions']:,} × {samples}"
        rows.append(SuiteRow(name, name, facts["metric"], better(facts), cells, n))
    return rows


def better(facts: Mapping) -> str:
    """Which way is better, in words."""
    return f"{'lower' if facts['lower_is_better'] else 'higher'} is better"


def read_facts(summary: Mapping, step: str, suite: str) -> dict | None:
    """What could be read of a suite; None where a summary of an earlier version does not say."""
    return summary.get("readable", {}).get(step, {}).get("suites", {}).get(suite)


def ground_bounds(read: Mapping | None) -> Mapping | None:
    """The bounds that stand in place of a rate, where too few rows of a suite could be read."""
    return read["bounds"] if read and not has_ground(read) else None


def _list_cell(summary: Mapping, step: str, name: str) -> Cell | None:
    """The cell of a rate at the top of an evaluation; reasoning has no bounds, they are wrong."""
    rates = summary[step] or {}
    if name == READABLE:
        facts = summary.get("readable", {}).get(step)
        return _cell(facts, None) if facts and rates else None
    if not rates.get(name):
        return None
    bounds = None if name == RATES[REASONING] else rates.get("bounds", {}).get(name)
    suite = next((suite for suite, rate in RATES.items() if rate == name), name)
    return _cell({"rate": rates[name], "bounds": bounds}, read_facts(summary, step, suite))


def _change(summary: Mapping, name: str) -> Mapping | None:
    if name != READABLE:
        return (summary["change"] or {}).get(name)
    steps = [summary.get("readable", {}).get(step) for step in STEPS]
    if not all(steps):
        return None
    before, after = (Rate(**facts["rate"]) for facts in steps if facts)
    return difference(before, after).as_dict()


def _change_cell(change: Mapping | None) -> Cell | None:
    if not change or change["value"] is None:
        return None
    return Cell(signed(change["value"]), interval(change, "{:+.1f}"))


def _cell(facts: Mapping, read: Mapping | None) -> Cell:
    """A rate as text, with bounds where unparsed rows leave it open, and its counts.

    Args:
        read: of the suite, as in `readability`; with too few readable rows the bounds are shown.
    """
    rate, bounds = facts["rate"], facts.get("bounds")
    n, notes = f"{rate['n']:,}", tuple(_notes(facts))
    if read and (open_ends := ground_bounds(read)):
        share, rows = read["rate"]["value"], open_ends["n"]
        sign = f"{round(share * rows):,} of {rows:,} rows could be read"
        value = f"{interval({'value': 0, **open_ends})} %"
        return Cell(value, f"judged: {percent(rate['value'])} of {n}", n, "", notes, sign)
    is_open = bounds and bounds["n"] and bounds["high"] > bounds["low"]
    unparsed = f"unparsed: {interval({'value': 0, **bounds})}" if bounds and is_open else ""
    return Cell(percent(rate["value"]), interval(rate), n, unparsed, notes)


def _notes(facts: Mapping) -> list[str]:
    names = ("unparsed", "truncated", "timeout")
    notes = [f"{facts[name]:,} {name}" for name in names if facts.get(name)]
    if compat := facts.get("skythought_compat"):
        notes.append(f"authors' scorer: {_with_interval(compat)}")
    for k, rate in facts.get("pass_at_k", {}).items():
        if k != "1":
            notes.append(f"pass@{k}: {_with_interval(rate)}")
    for scope, rate in facts.get("by_scope", {}).items():
        notes.append(f"{scope}: {_with_interval(rate)}")
    return notes


def _with_interval(rate: Mapping) -> str:
    """`12.3 % (8.1 to 18.2)`; a dash where nothing was counted."""
    ends = interval(rate)
    return f"{percent(rate['value'])} ({ends})" if ends else percent(rate["value"])
