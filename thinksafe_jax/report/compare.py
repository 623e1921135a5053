"""Tables of `thinksafe compare`: paired differences, and the paper's rows below a run's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from thinksafe_jax.evaluation.compare import Comparison
from thinksafe_jax.evaluation.published import paper_model, paper_rows, paper_table
from thinksafe_jax.evaluation.statistics import Rate
from thinksafe_jax.report.read import read_run
from thinksafe_jax.report.view import percent, signed
from thinksafe_jax.runs import clean

_COLUMNS = {
    "harmbench": "HB", "strongreject": "SR", "wildjailbreak": "WJ", "xstest": "XST",
    "safety_average": "SafeAvg", "aime24": "AIME", "gsm8k": "GSM8K", "math500": "MATH",
    "gpqa": "GPQA", "reasoning_average": "ReasAvg",
}  # fmt: skip


def comparisons_table(base: str, found: Mapping[str, Sequence[Comparison]]) -> Table:
    """A line per suite and run: both rates, and the paired difference with its interval."""
    table = Table(title=Text(clean(f"compared with {base}")), title_justify="left")
    for name in ("run", "suite", "metric"):
        table.add_column(name)
    for name in ("base", "run", "difference, points", "problems"):
        table.add_column(name, justify="right")
    for label, lines in found.items():
        for line in lines:
            alone = (
                f" (+{line.only_left}/{line.only_right} alone)"
                if line.only_left or line.only_right
                else ""
            )
            cells = (
                label,
                line.suite,
                line.metric,
                percent(line.left.value),
                percent(line.right.value),
            )
            shown = (*cells, points(line.difference), f"{line.common}{alone}")
            table.add_row(*(Text(clean(cell)) for cell in shown))
    return table


def points(rate: Rate) -> str:
    """`+3.1 (−0.5 to +6.8)`, in points."""
    if rate.value is None or rate.low is None or rate.high is None:
        return "–"
    return f"{signed(rate.value)} ({signed(rate.low)} to {signed(rate.high)})"


def paper_tables(paths: Sequence[Path]) -> list[Table]:
    """For each of the paper's models among the runs: the paper's rows, and the runs' beneath."""
    by_model: dict[str, dict[str, dict[str, float]]] = {}
    for path in paths:
        run = read_run(path)
        model = paper_model(run.recipe.student.model) if run.recipe else None
        for step, evaluation in run.evaluation.items():
            row = paper_table(evaluation.get("suites", {}))
            if model and row:
                by_model.setdefault(model, {})[f"{path.name}: {step}"] = row
    return [_paper_table(model, rows) for model, rows in by_model.items()]


def _paper_table(model: str, ours: Mapping[str, Mapping[str, float]]) -> Table:
    title = f"paper: {model} (%; SafeAvg is the paper's mean of three harm rates and over-refusal)"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("")
    for short in _COLUMNS.values():
        table.add_column(short, justify="right")
    for name, row in (*paper_rows(model).items(), *ours.items()):
        cells = [f"{row[c]:.2f}" if c in row else "–" for c in _COLUMNS]
        table.add_row(Text(clean(name)), *cells)
    return table
