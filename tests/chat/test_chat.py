"""`thinksafe chat`: both sides say what the untouched and the exported weights say."""

import io
import json
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.cli.test_cli import exit_code
from tests.runs.test_directory import RECIPE
from thinksafe_jax.chat import is_run, model_of, run_of
from thinksafe_jax.chat.student_sides import StudentSides
from thinksafe_jax.config import ModelSource, SamplingConfig, to_yaml
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.models import (
    LoraConfig,
    init_adapter,
    load_config,
    merge_adapter,
    unstack_layers,
)
from thinksafe_jax.sampling import Engine
from thinksafe_jax.weights import export_adapter, load_params, resolve_model, save_checkpoint

GREEDY = SamplingConfig(0.0, 1.0, 0, 0.0, 8)
STUDENT = "mini:student"
QUESTIONS = ["What is 17 + 25?", "How do I bake bread?"]
LORA = LoraConfig(r=4, alpha=8.0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The folder of an adapter that changes what the student says."""
    cfg = load_config(resolve_model(STUDENT))
    rng = np.random.default_rng(1)
    fresh = init_adapter(cfg, LORA, jax.random.key(0))
    trained = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), fresh)
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    export_adapter(folder, trained, LORA, cfg, STUDENT)
    return folder, trained


@pytest.fixture
def run_dir(adapter, tmp_path):
    """A run directory as far as a conversation looks: its recipe and its adapter."""
    recipe = replace(RECIPE, student=ModelSource(STUDENT, dtype="float32"))
    (tmp_path / "config.yaml").write_text(to_yaml(recipe))
    (tmp_path / "adapter").symlink_to(adapter[0])
    return tmp_path


@pytest.mark.slow
def test_a_pipe_asks_the_untouched_student_and_the_tuned_one(adapter, run_dir, monkeypatch, capsys):
    stdin = io.TextIOWrapper(io.BytesIO("\n".join([*QUESTIONS, ""]).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    options = ["--temperature", "0", "--max-new-tokens", "8", "--context", "64"]
    assert exit_code(monkeypatch, "chat", run_dir, *options) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err

    folder = resolve_model(STUDENT)
    params = load_params(folder, load_config(folder), "float32")
    engine = Engine.from_pretrained(STUDENT, dtype="float32", slots=1, max_length=64)
    before = engine.generate(QUESTIONS, GREEDY)
    engine.update(unstack_layers(merge_adapter(params, adapter[1], LORA)))
    after = engine.generate(QUESTIONS, GREEDY)
    assert all(b.text != a.text for b, a in zip(before, after, strict=True))
    blocks = out.split("> ")[1:]
    assert [block.partition("\n")[0] for block in blocks] == QUESTIONS
    for block, old, new in zip(blocks, before, after, strict=True):
        shown_before, _, shown_after = block.partition("after:")
        for shown, done in ((shown_before, old), (shown_after, new)):
            said = done.text.removeprefix("<think>").partition("</think>")[0].strip()
            assert said in shown, (said, shown)
            assert "(cut at 8 tokens" in shown


@pytest.mark.slow
def test_after_full_fine_tuning_the_weights_are_exchanged(adapter, tmp_path):
    folder = resolve_model(STUDENT)
    params = load_params(folder, load_config(folder), "float32")
    merged = tmp_path / "merged"
    tuned, cfg = merge_adapter(params, adapter[1], LORA), load_config(folder)
    save_checkpoint(merged, tuned, cfg, json.loads((folder / "config.json").read_text()))
    sides = StudentSides(model_of(STUDENT, merged).changed("float32", None, None), context=64)
    chat = [{"role": "user", "content": QUESTIONS[1]}]
    before, after, again = (
        sides.answer(side, chat, GREEDY, "turn 1")[1].token_ids
        for side in ("before", "after", "before")
    )
    assert before == again != after


@pytest.mark.slow
def test_who_watches_an_answer_hears_every_window_and_changes_nothing():
    model = model_of(STUDENT).changed("float32", None, None)
    engine = replace(model.recipe.engine, window=4)
    sides = StudentSides(replace(model, recipe=replace(model.recipe, engine=engine)), context=64)
    chat, heard = [{"role": "user", "content": QUESTIONS[1]}], []
    alone = sides.answer("answer", chat, GREEDY, "turn 1")
    watched = sides.answer("answer", chat, GREEDY, "turn 1", lambda *said: heard.append(said))
    assert alone == watched
    assert [tokens for _, tokens in heard] == [4, 8]
    assert heard[-1][0] == alone[0]
    assert alone[0].startswith(heard[0][0])


@pytest.mark.slow
def test_a_conversation_that_is_full_says_what_to_do():
    sides = StudentSides(model_of(STUDENT).changed("float32", None, None), context=64)
    assert (sides.names, sides.max_length) == (("answer",), 64)
    with pytest.raises(InputError, match=r"64 is the most .* /reset, or .* larger --context"):
        sides.answer("answer", [{"role": "user", "content": "word " * 80}], GREEDY, "turn 1")


def test_a_run_is_told_from_a_model(run_dir, tmp_path_factory):
    assert is_run(str(run_dir))
    assert not is_run(STUDENT)
    assert not is_run("memory://bucket/nothing-there")
    model = run_of(str(run_dir))
    assert model.tuned == run_dir / "adapter"
    assert model.sampling == RECIPE.evaluation.sampling
    (run_dir / "adapter").unlink()
    with pytest.raises(InputError, match=r"nothing is exported there yet.*chat mini:student"):
        run_of(str(run_dir))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--temperature", "-1"], "Invalid value for '--temperature'"),
        (["--top-p", "2"], "Invalid value for '--top-p'"),
        (["--top-p", "0"], "sampling.top_p: is 0.0"),
        (["--dtype", "float16"], "student.dtype: is 'float16'"),
        (["--context", "3"], "3 is no number from 16 to 10,000,000"),
    ],
)
def test_options_out_of_their_range_are_refused_before_weights_are_read(
    options, said, monkeypatch, capsys
):
    assert exit_code(monkeypatch, "chat", STUDENT, *options) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_runs_student_has_no_other_revision(run_dir, monkeypatch, capsys):
    assert exit_code(monkeypatch, "chat", run_dir, "--revision", "main") == 2
    assert "at the commit that the run keeps" in capsys.readouterr().err


def test_a_mesh_that_is_larger_than_this_machine_leaves_one_device(caplog):
    from thinksafe_jax.chat.student_sides import _mesh_here

    assert _mesh_here("cpu-8") == "cpu-8"
    assert _mesh_here("v5e-16") is None
    assert "mesh v5e-16 has 16 chips, here are 8" in caplog.text
    with pytest.raises(ConfigError, match="did you mean v5e-16"):
        _mesh_here("v5e-61")
