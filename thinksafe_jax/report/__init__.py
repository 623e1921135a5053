"""The run for people and programs: HTML report, summary.json, cards, tables."""

from thinksafe_jax.report.dataset_card import card_of_dataset
from thinksafe_jax.report.dataset_row import show_row
from thinksafe_jax.report.html import page_environment, write_report
from thinksafe_jax.report.model_card import card_of_run
from thinksafe_jax.report.plots import COLOURS, figure_of
from thinksafe_jax.report.several_runs import write_several
from thinksafe_jax.report.short_names import short_names
from thinksafe_jax.report.suite_rows import interval, percent, signed
from thinksafe_jax.report.terminal_tables import (
    comparison_table,
    comparisons_table,
    coverage_table,
    final_table,
    paper_tables,
)

__all__ = [
    "COLOURS",
    "card_of_dataset",
    "card_of_run",
    "comparison_table",
    "comparisons_table",
    "coverage_table",
    "figure_of",
    "final_table",
    "interval",
    "page_environment",
    "paper_tables",
    "percent",
    "short_names",
    "show_row",
    "signed",
    "write_report",
    "write_several",
]
