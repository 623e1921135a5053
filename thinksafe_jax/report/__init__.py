"""The run for people and programs: HTML report, summary.json, cards, tables."""

from thinksafe_jax.report.dataset_card import card_of_dataset
from thinksafe_jax.report.dataset_row import show_row
from thinksafe_jax.report.html import page_environment, write_report
from thinksafe_jax.report.model_card import card_of_run
from thinksafe_jax.report.plots import COLOURS, figure_of
from thinksafe_jax.report.several_runs import write_several
from thinksafe_jax.report.suite_rows import interval, percent, signed
from thinksafe_jax.report.terminal_tables import (
    compare_tables,
    comparison_table,
    coverage_table,
    final_table,
)

__all__ = [
    "COLOURS",
    "card_of_dataset",
    "card_of_run",
    "compare_tables",
    "comparison_table",
    "coverage_table",
    "figure_of",
    "final_table",
    "interval",
    "page_environment",
    "percent",
    "show_row",
    "signed",
    "write_report",
    "write_several",
]
