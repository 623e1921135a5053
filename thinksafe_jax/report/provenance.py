"""What made a run and what it made: when, with which seed, versions and files, and how again."""

from collections.abc import Mapping
from datetime import datetime
from shlex import quote
from typing import Any

from thinksafe_jax.report.run_files import RunFiles
from thinksafe_jax.runs import data_folder
from thinksafe_jax.storage import file_sha256

_DATASET, _ADAPTER = "dataset/train.jsonl", "adapter/adapter_model.safetensors"


def again(run: RunFiles) -> str:
    """The command that makes the same run in another folder; "" without its recipe."""
    if run.recipe is None:
        return ""
    name = run.recipe.run_dir or f"runs/{run.recipe.name}"
    config, folder = quote(f"{name}/config.yaml"), quote(f"{name}-again")
    return f"thinksafe run --config {config} --run-dir {folder}"


def provenance(run: RunFiles) -> list[tuple[str, str]]:
    """Begin, end, seed, versions and hashes, as (name, value)."""
    manifest = run.manifest
    rows = _times(manifest)
    if run.recipe is not None:
        rows.append(("seed", f"{run.recipe.seed} (of samples, order of rows and LoRA)"))
    rows += [(f"{name} version", str(v)) for name, v in manifest.get("versions", {}).items()]
    rows += [(name, str(flags)) for name, flags in manifest.get("compiler_flags", {}).items()]
    if not manifest:
        rows.append(("manifest.json", "not in this directory: versions and inputs are unknown"))
    if manifest.get("recipe_hash"):
        rows.append(("recipe", str(manifest["recipe_hash"])))
    stages = manifest.get("stages", {}).items()
    rows += [  # of an earlier page nothing is said: the same run gives the same page
        (f"inputs of {stage}", str(record.get("inputs_hash", "")))
        for stage, record in stages
        if stage != "report"
    ]
    for step, evaluation in run.evaluation.items():
        rows.append((f"prompts, {step}", evaluation.get("settings", {}).get("prompts_sha256", "")))
    made = {_DATASET: data_folder(run.path) / _DATASET, _ADAPTER: run.path / _ADAPTER}
    return rows + [(name, file_sha256(file)) for name, file in made.items() if file.exists()]


def _times(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """When the run began and its last stage ended; the report itself is none of its work."""
    ends = [
        record["time"]
        for stage, record in manifest.get("stages", {}).items()
        if stage != "report" and isinstance(record.get("time"), str)
    ]
    begun = manifest.get("created")
    rows = [("begun", str(begun))] if begun else []
    if not ends or not isinstance(begun, str):
        return rows
    rows.append(("ended", max(ends)))
    try:
        took = datetime.fromisoformat(max(ends)) - datetime.fromisoformat(begun)
    except (ValueError, TypeError):  # an edited file: the times stand there as they are
        return rows
    return [*rows, ("from begin to end", f"{spoken(took.total_seconds())}, with all pauses")]


def spoken(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s` or `45 s`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
