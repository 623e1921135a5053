"""Where an evaluation of a model goes, and by what it knows the model and the judge."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from thinksafe_jax.config import GuardConfig, Recipe
from thinksafe_jax.pipeline import ModelEvaluation, default_folder
from thinksafe_jax.pipeline.subject import judge_of, subject

FILES = {
    "model.safetensors": "weights",
    "config.json": "{}",
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "generation_config.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "adapter_config.json": "{}",
}


def test_each_model_and_each_adapter_has_a_default_place_of_its_own():
    asked = ModelEvaluation("models/Qwen3-0.6B", ["gsm8k"])
    adapters = [None, Path("runs/a/adapter"), Path("runs/b/adapter"), Path("/x/a/other")]
    places = [default_folder(replace(asked, adapter=adapter)) for adapter in adapters]
    assert places[0] == Path("runs/evaluate-Qwen3-0.6B")
    assert places[1] == Path("runs/evaluate-Qwen3-0.6B-a-adapter")
    assert len(set(places)) == len(places)
    assert default_folder(ModelEvaluation("mini:student", [])).name == "evaluate-mini-student"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def session_of(folder: Path) -> Any:
    recipe = replace(Recipe(), guard=GuardConfig(kind="llama-guard", model=str(folder)))
    return SimpleNamespace(
        recipe=recipe, tokenizer=None, judge=None, folder=lambda source: Path(source.model)
    )


@pytest.mark.parametrize("name", FILES)
def test_another_content_under_the_same_path_is_another_model_and_another_judge(checkpoint, name):
    session, engine = session_of(checkpoint), SimpleNamespace()

    def identities() -> tuple[str, str]:
        return subject(session, engine, [checkpoint]).fingerprint, judge_of(session).fingerprint

    before = identities()
    assert identities() == before
    (checkpoint / name).write_text("changed")
    assert all(new != old for new, old in zip(identities(), before, strict=True))


def test_a_card_beside_the_weights_is_no_part_of_the_model(checkpoint):
    session = session_of(checkpoint)
    before = judge_of(session).fingerprint
    (checkpoint / "README.md").write_text("a table of results")
    assert judge_of(session).fingerprint == before


def test_a_guard_without_a_checkpoint_has_no_fingerprint(checkpoint):
    session = session_of(checkpoint)
    session.recipe = Recipe()
    assert judge_of(session).fingerprint == ""
