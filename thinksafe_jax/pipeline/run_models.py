"""The models of a run stay the ones it began with, though their paths may get other files.

The fingerprint of each is kept in manifest.json when it is first there to be read: `models` is
{role: {"model": its name, "files": {file: digest}}}. A start that sees other files refuses, as long
as anything in the directory was made with them.
"""

import logging
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from thinksafe_jax.config import GuardConfig, GuardModel, ModelSource, Recipe
from thinksafe_jax.errors import InputError
from thinksafe_jax.runs import Run, recorded_models
from thinksafe_jax.storage import shown
from thinksafe_jax.weights import changed_files, fingerprint, local_folder

log = logging.getLogger(__name__)
# what is made with the models of each kind of role; without it, another model does no harm
_MADE_WITH = {
    "student": ("samples/*", "rollouts/*", "checkpoints/*", "evaluation/*"),
    "teacher": ("samples/*", "rollouts/*", "checkpoints/*"),
    "guard": ("verdicts/*", "rollouts/*/verdicts/*", "evaluation/*/verdicts/*"),
    "judge": ("evaluation/*/verdicts/*",),
}


def check_models(run: Run) -> None:
    """Compares the models' files with those that the run began with; called at every start.

    What is seen for the first time is recorded.

    Raises:
        InputError: other files than those that made what lies in the run directory.
    """
    recorded, seen = {**_of_data(run), **run.manifest.models}, _fingerprints(run)
    for role, model in seen.items():
        made_with = _MADE_WITH[role.partition(".")[0]]
        folders = dict.fromkeys((run.path, run.data))
        if not any(any(folder.glob(pattern)) for folder in folders for pattern in made_with):
            continue
        if role not in recorded:
            log.warning(
                "%s began before the files of its models were recorded; those of the %s %s are "
                "recorded as they are now", shown(run.path), role, model["model"],
            )  # fmt: skip
        elif changes := changed_files(recorded[role]["files"], model["files"]):
            raise InputError(_refusal(run.path, role, model["model"], changes))
    if seen != {role: run.manifest.models.get(role) for role in seen}:
        run.manifest.keep_models({**recorded, **seen})


def _of_data(run: Run) -> dict[str, dict[str, Any]]:
    """What the run around a training was made with; nothing of any other run."""
    return {} if run.data == run.path else recorded_models(run.data)


def record_models(run: Run) -> None:
    """Records models that were fetched since the run was opened."""
    recorded = run.manifest.models
    if new := _fingerprints(run, known=recorded):
        run.manifest.keep_models({**recorded, **new})


def _fingerprints(run: Run, known: Container[str] = ()) -> dict[str, dict[str, Any]]:
    """{role: model and files} of what is on this disk and not known.

    Empty but in the first process: hosts are compared with each other by the session.
    """
    if not run.group.first:
        return {}
    revisions = run.data / "models.json"
    folders = {
        role: (source.model, local_folder(source.model, revisions))
        for role, source in _models(run.recipe)
        if role not in known
    }
    return {
        role: {"model": name, "files": fingerprint(folder)}
        for role, (name, folder) in folders.items()
        if folder is not None
    }


def _models(recipe: Recipe) -> Iterator[tuple[str, ModelSource | GuardConfig | GuardModel]]:
    """(role, model) of everything that the recipe names and that may lie on this disk."""
    yield "student", recipe.student
    for teacher in (recipe.synthesis.teacher, recipe.on_policy.teacher):  # never both
        if teacher.model:
            yield "teacher", teacher
    for role, guard in (("guard", recipe.guard), ("judge", recipe.judge)):
        if guard.model:
            yield role, guard
        for number, member in enumerate(guard.members):
            if member.model:
                yield f"{role}.members[{number}]", member


def _refusal(path: Path, role: str, name: str, changes: list[str]) -> str:
    again = "begin a new run: --new-run, or another --run-dir"
    if role.startswith(("guard", "judge")):
        again = "judge anew with `thinksafe run … --new-verdicts`, which keeps the samples"
    shortened = f"{'; '.join(changes[:4])}{' …' if len(changes) > 4 else ''}"
    return (
        f"{shown(path)}: the {role} {name} is not what this run began with: {shortened}. Put the "
        f"files back, or {again}"
    )
