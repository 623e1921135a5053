"""Another training in a run directory: the earlier one moves to `trainings/`, the data stay.

    RUN/config.yaml          earlier ─► the new recipe: from here on the move is under way
    RUN/manifest.json        forgets train, export, evaluate and report
    RUN/metrics.jsonl        keeps what was measured of samples, verdicts and the untouched student
    RUN/checkpoints, adapter, merged, evaluation/after*, report  ─►  RUN/trainings/training-1/

The answers of the untouched student are copied, as they belong to both. A kill leaves the mark
`moving` in the folder; whoever opens the run next finishes the move, on this machine or another.
"""

import json
import logging
import shutil
from itertools import count
from pathlib import Path
from typing import Any

from thinksafe_jax.json_files import load_unique
from thinksafe_jax.runs.training_folders import (
    DATA_STAGES,
    TRAININGS,
    data_folder,
    training_folders,
)
from thinksafe_jax.storage import (
    atomic_write,
    parse,
    persist,
    prepare_directory,
    set_aside,
    shown,
    storage_errors,
)

log = logging.getLogger(__name__)
_MARK = "moving"
_MOVED = ("checkpoints", "adapter", "merged", "report")
_OF_DATA = (*DATA_STAGES, "judge")  # stages in metrics.jsonl


def begin_new_training(path: Path, config: str) -> None:
    """Sets the training of a run directory aside, and makes `config` the run's configuration.

    Args:
        path: the run directory, locked by the caller; no move is under way in it.
        config: text of the new config.yaml.
    """
    if not any((path / name).exists() for name in ("checkpoints", "adapter", "merged")):
        atomic_write(path / "config.yaml", config)  # nothing was trained
        return
    folder = _free_folder(path)
    with storage_errors(folder):
        prepare_directory(folder)
        atomic_write(folder / _MARK, "")
        for name in ("manifest.json", "metrics.jsonl"):
            if (path / name).exists():
                atomic_write(folder / name, (path / name).read_bytes())
        if (folder / "manifest.json").exists():
            _keep_stages(folder / "manifest.json", training=True)
        atomic_write(folder / "config.yaml", (path / "config.yaml").read_bytes())
    atomic_write(path / "config.yaml", config)
    finish_move(path)


def finish_move(path: Path) -> None:
    """Completes a move that `begin_new_training` began; drops what a kill left of its beginning."""
    for mark in sorted((path / TRAININGS).glob(f"*/{_MARK}")):
        folder = mark.parent
        with storage_errors(folder):
            if _is_begun(path, folder):
                _move(path, folder)
                mark.unlink()
                log.warning(
                    "%s: the earlier training is kept as %s; samples, verdicts and dataset stay",
                    shown(path), shown(folder),
                )  # fmt: skip
            else:
                shutil.rmtree(folder)
        persist(path)


def copy_untouched(path: Path) -> None:
    """Copies what the untouched student was measured at to a training, from its run or a sibling.

    Whether it may count, the evaluation finds out by the identity of its rows.
    """
    run = data_folder(path)
    evaluation = path / "evaluation"
    if run == path or (evaluation / "before").exists():
        return
    others = [run, *(folder for folder in training_folders(run) if folder != path)]
    for other in others:
        if (other / "evaluation/before.json").exists():
            _copy_before(other / "evaluation", evaluation)
            log.info("before: already measured in %s", shown(other))
            return


def _is_begun(path: Path, folder: Path) -> bool:
    """Whether the run has its new configuration: the folder has the earlier one."""
    config = folder / "config.yaml"
    return config.exists() and config.read_bytes() != (path / "config.yaml").read_bytes()


def _move(path: Path, folder: Path) -> None:
    """Each step may have been done before."""
    if (path / "manifest.json").exists():
        _keep_stages(path / "manifest.json", training=False)
    if (path / "metrics.jsonl").exists():
        lines = (path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        atomic_write(path / "metrics.jsonl", b"".join(filter(_is_of_data, lines)))
    evaluation, kept = path / "evaluation", folder / "evaluation"
    if (evaluation / "before").exists() and not (kept / "before").exists():
        _copy_before(evaluation, kept)
    for name in (*_MOVED, "evaluation/after", "evaluation/after.json"):
        if (path / name).exists():
            set_aside(path / name, folder / name)


def _copy_before(source: Path, target: Path) -> None:
    """Copies evaluation/before: rows first, and under another name until all are there."""
    prepare_directory(target)
    partial = target / ".before.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source / "before", partial)
    for name in ("datasets.json", "before.json"):
        if (source / name).exists():
            atomic_write(target / name, (source / name).read_bytes())
    partial.rename(target / "before")
    persist(target)


def _free_folder(path: Path) -> Path:
    names = (path / TRAININGS / f"training-{number}" for number in count(1))
    return next(folder for folder in names if not any(folder.glob("[!.]*")))


def _keep_stages(manifest: Path, *, training: bool) -> None:
    """Leaves in a manifest the stages of the training, or all others."""
    content: dict[str, Any] = load_unique(manifest.read_text(encoding="utf-8"), nan=True)
    stages = content["stages"].items()
    content["stages"] = {n: of for n, of in stages if (n not in DATA_STAGES) == training}
    atomic_write(manifest, json.dumps(content, indent=2) + "\n")


def _is_of_data(line: bytes) -> bool:
    row = parse(line) or {}
    return row.get("stage") in _OF_DATA or (row.get("stage"), row.get("name")) == (
        "evaluate",
        "before",
    )
