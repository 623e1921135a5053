"""Measurements on data and models: perplexity, projection, shift, lengths, probe."""

from thinksafe_jax.analysis.analyses import analyse, table_text, target
from thinksafe_jax.analysis.probe import Probe, default_templates, run_probe
from thinksafe_jax.analysis.probe_view import probe_table, write_plot

__all__ = [
    "Probe",
    "analyse",
    "default_templates",
    "probe_table",
    "run_probe",
    "table_text",
    "target",
    "write_plot",
]
