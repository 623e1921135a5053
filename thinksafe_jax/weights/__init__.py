"""Checkpoints: where they come from, how they load, how they are written back."""

from thinksafe_jax.weights.adapter import export_adapter, import_adapter
from thinksafe_jax.weights.card import card_of_run
from thinksafe_jax.weights.export import save_checkpoint
from thinksafe_jax.weights.folder import read_config_json
from thinksafe_jax.weights.load import load_params
from thinksafe_jax.weights.reader import LoadStats
from thinksafe_jax.weights.source import model_revision, resolve_model

__all__ = [
    "LoadStats",
    "card_of_run",
    "export_adapter",
    "import_adapter",
    "load_params",
    "model_revision",
    "read_config_json",
    "resolve_model",
    "save_checkpoint",
]
