"""The run for people and programs: HTML report, summary.json, tables on the terminal."""

from thinksafe_jax.report.build import write_report
from thinksafe_jax.report.table import comparison_table, final_table

__all__ = ["comparison_table", "final_table", "write_report"]
