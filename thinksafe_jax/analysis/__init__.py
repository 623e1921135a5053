"""Measurements on data and models: perplexity, projection, shift, lengths, probe."""

from thinksafe_jax.analysis.analyses import analyse, table_text, target
from thinksafe_jax.analysis.probe import Probe, default_templates, run_probe
from thinksafe_jax.analysis.probe_view import guidance_table, probe_table, refusals_line, write_plot

__all__ = [
    "Probe",
    "analyse",
    "default_templates",
    "guidance_table",
    "probe_table",
    "refusals_line",
    "run_probe",
    "table_text",
    "target",
    "write_plot",
]
