"""report/: summary.json for programs and report.html for people, made from the run's files only."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from thinksafe_jax.report import plots
from thinksafe_jax.report.html_content import page
from thinksafe_jax.report.plane_plot import plane_plot
from thinksafe_jax.report.rollout_plots import rollouts_plot
from thinksafe_jax.report.run_files import RunFiles, read_run
from thinksafe_jax.report.summary import build_summary
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.terminal import clean

TEMPLATE = "report.html.jinja"


def write_report(run_path: Path) -> None:
    """Write report/summary.json and report/report.html of a run directory.

    What the run has not made yet is left out and said so. The same files give the same bytes.

    Raises:
        InputError: not a run directory, or a file in it that cannot be read.
    """
    run = read_run(run_path)
    summary = build_summary(run)
    folder = run_path / "report"
    folder.mkdir(exist_ok=True)
    atomic_write(folder / "report.html", render(run, summary))
    text = json.dumps(summary, indent=2, ensure_ascii=False, default=str)
    atomic_write(folder / "summary.json", text + "\n")


def render(run: RunFiles, summary: dict) -> str:
    """The report as one HTML page without a single outside resource or script."""
    lengths = {
        label: [row["tokens"] for row in run.samples if row["label"] == label and row["tokens"]]
        for label in ("harmful", "benign")
    }
    figures = {
        "rates": plots.rates_plot(summary),
        "suites": plots.suites_plot(summary),
        "plane": plane_plot(summary),
        "drops": plots.drops_plot(summary["dataset"] or {}),
        "lengths": plots.lengths_plot(lengths),
        "loss": plots.loss_plot(run.metrics),
        "rollouts": rollouts_plot(run.metrics),
    }
    environment = page_environment()
    return environment.get_template(TEMPLATE).render(**page(run, summary), figures=figures)


def page_environment(*folders: Path) -> Environment:
    """What renders a page: escaping on, gaps refused, the style of the report at hand.

    Args:
        folders: of templates, beside those of the report.
    """
    return Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,  # by name it would be off: the template does not end in .html
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: object) -> object:
    """Every text that the page shows loses its control characters; autoescaping comes after."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else clean(value)
