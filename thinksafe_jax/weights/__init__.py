"""Checkpoints: where they come from, how they load, how they are written back."""

from thinksafe_jax.weights.atomic_folder import read_config_json, write_json
from thinksafe_jax.weights.checksums import check_files, read_manifest, write_manifest
from thinksafe_jax.weights.convert import convert_checkpoint
from thinksafe_jax.weights.export import save_checkpoint
from thinksafe_jax.weights.gather import on_host
from thinksafe_jax.weights.hugging_face import download_config, download_dataset, hub_errors
from thinksafe_jax.weights.identity import changed_files, fingerprint
from thinksafe_jax.weights.loading import check_weights, load_params
from thinksafe_jax.weights.peft import export_adapter, import_adapter
from thinksafe_jax.weights.resolve import (
    ModelHeaders,
    is_hub_id,
    local_folder,
    model_headers,
    model_revision,
    read_revisions,
    resolve_model,
)
from thinksafe_jax.weights.verify import BOUNDS, report_lines, verify_model, write_figures

__all__ = [
    "BOUNDS",
    "ModelHeaders",
    "changed_files",
    "check_files",
    "check_weights",
    "convert_checkpoint",
    "download_config",
    "download_dataset",
    "export_adapter",
    "fingerprint",
    "hub_errors",
    "import_adapter",
    "is_hub_id",
    "load_params",
    "local_folder",
    "model_headers",
    "model_revision",
    "on_host",
    "read_config_json",
    "read_manifest",
    "read_revisions",
    "report_lines",
    "resolve_model",
    "save_checkpoint",
    "verify_model",
    "write_figures",
    "write_json",
    "write_manifest",
]
