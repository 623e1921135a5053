"""A run refuses to go on with other models than it began with, and names what differs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from thinksafe_jax.config import (
    GuardConfig,
    GuardModel,
    ModelSource,
    OnPolicyConfig,
    PromptSource,
    Recipe,
    SynthesisConfig,
)
from thinksafe_jax.errors import InputError
from thinksafe_jax.pipeline.run_models import check_models, record_models
from thinksafe_jax.runs import Run
from thinksafe_jax.weights import resolve_model


@pytest.fixture
def recipe(tmp_path):
    """Student, teacher, guard and judge, each in a folder of its own."""
    for role in ("student", "teacher", "guard", "judge"):
        packaged = "mini:student" if role in ("student", "teacher") else "mini:guard"
        shutil.copytree(resolve_model(packaged), tmp_path / role)
    return Recipe(
        name="r",
        student=ModelSource(str(tmp_path / "student")),
        guard=GuardConfig(model=str(tmp_path / "guard")),
        judge=GuardConfig(model=str(tmp_path / "judge")),
        synthesis=SynthesisConfig(
            teacher=ModelSource(str(tmp_path / "teacher")),
            prompts=[PromptSource("mini:train-harmful")],
        ),
    )


MADE = ("samples/part-00000.jsonl", "verdicts/part-00000.jsonl",
        "evaluation/before/verdicts/part-00000.jsonl")  # fmt: skip


def start(recipe, folder: Path, *made: str, **options) -> dict:
    """One start of a run that makes something; what it has recorded."""
    with Run.open(recipe, folder, **options) as run:
        check_models(run)
        for name in made:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("")
        record_models(run)
    return json.loads((folder / "manifest.json").read_text())["models"]


def spoil_weights(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.float32(2).astype(
        tensors["model.norm.weight"].dtype
    )
    save_file(tensors, folder / "model.safetensors")
    return "model.safetensors has changed"


def add_template(folder: Path) -> str:
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return "chat_template.jinja is new"


def edit_eos(folder: Path) -> str:
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    return "generation_config.json has changed"


@pytest.mark.parametrize("change", [spoil_weights, add_template, edit_eos])
@pytest.mark.parametrize("role", ["student", "teacher", "guard", "judge"])
def test_another_model_under_the_same_path_is_refused_by_name(recipe, tmp_path, role, change):
    assert start(recipe, tmp_path / "run", *MADE).keys() == {"student", "teacher", "guard", "judge"}
    start(recipe, tmp_path / "run")  # the same files go on
    said = change(tmp_path / role)
    with pytest.raises(InputError, match=f"the {role} .* this run began with: {said}"):
        start(recipe, tmp_path / "run")


def test_what_nothing_was_made_with_may_change(recipe, tmp_path):
    """A run that failed before its first row goes on with the model as it was mended."""
    before = start(recipe, tmp_path / "run", *MADE[:1])
    spoil_weights(tmp_path / "guard")
    after = start(recipe, tmp_path / "run", *MADE[1:])
    assert {role for role in before if before[role] != after[role]} == {"guard"}
    spoil_weights(tmp_path / "student")
    with pytest.raises(InputError, match="student"):
        start(recipe, tmp_path / "run")


def test_new_verdicts_are_the_way_out_for_a_guard_and_not_for_a_student(recipe, tmp_path):
    start(recipe, tmp_path / "run", *MADE)
    spoil_weights(tmp_path / "guard")
    with pytest.raises(InputError, match="--new-verdicts`, which keeps the samples"):
        start(recipe, tmp_path / "run")
    start(recipe, tmp_path / "run", new_verdicts=True)
    assert (tmp_path / "run" / MADE[0]).exists()
    spoil_weights(tmp_path / "student")
    with pytest.raises(InputError, match="--new-run"):
        start(recipe, tmp_path / "run", new_verdicts=True)
    start(recipe, tmp_path / "run", new_run=True)


def test_a_run_that_began_before_fingerprints_goes_on_and_says_so(recipe, tmp_path, caplog):
    start(recipe, tmp_path / "run", *MADE)
    file = tmp_path / "run/manifest.json"
    content = json.loads(file.read_text())
    del content["models"]
    file.write_text(json.dumps(content))
    assert "student" in start(recipe, tmp_path / "run")
    assert "those of the student" in caplog.text
    spoil_weights(tmp_path / "student")
    with pytest.raises(InputError, match="student"):
        start(recipe, tmp_path / "run")


def test_members_of_a_majority_are_told_apart(recipe, tmp_path):
    members = [GuardModel(model=str(tmp_path / name)) for name in ("guard", "judge")]
    several = replace(
        recipe, guard=GuardConfig(kind="majority", members=members), judge=GuardConfig(kind="same")
    )
    models = start(several, tmp_path / "run", *MADE)
    assert models.keys() == {"student", "teacher", "guard.members[0]", "guard.members[1]"}
    said = edit_eos(tmp_path / "judge")
    with pytest.raises(InputError, match=rf"the guard.members\[1\] .*{said}"):
        start(several, tmp_path / "run")


@pytest.mark.parametrize("role", ["student", "teacher", "guard"])
def test_rollouts_are_made_with_student_teacher_and_guard_too(recipe, tmp_path, role):
    """Before the first checkpoint and before any evaluation."""
    teacher = recipe.synthesis.teacher
    recipe = replace(
        recipe,
        synthesis=replace(recipe.synthesis, teacher=ModelSource()),
        on_policy=OnPolicyConfig(method="opd", teacher=teacher),
    )
    step = "rollouts/step-000000"
    made = (f"{step}/samples/part-00000.jsonl", f"{step}/verdicts/part-00000.jsonl")
    start(recipe, tmp_path / "run", *made)
    spoil_weights(tmp_path / role)
    with pytest.raises(InputError, match=f"the {role} .* is not what this run began with"):
        start(recipe, tmp_path / "run")
