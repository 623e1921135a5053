"""Checkpoints: where they come from, how they load, how they are written back."""

from thinksafe_jax.weights.export import export_adapter, import_adapter, save_checkpoint
from thinksafe_jax.weights.load import load_params
from thinksafe_jax.weights.source import resolve_model

__all__ = ["export_adapter", "import_adapter", "load_params", "resolve_model", "save_checkpoint"]
