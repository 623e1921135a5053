"""Opening a run directory: its lock, its configuration, what is done (faults 14, 24)."""

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thinksafe_jax.config import (
    GuardConfig,
    ModelSource,
    PromptSource,
    Recipe,
    SynthesisConfig,
    load_recipe,
)
from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError
from thinksafe_jax.runs import Run, begun_recipe
from thinksafe_jax.storage import content_hash

RECIPE = Recipe(
    name="test",
    student=ModelSource(model="mini:student"),
    guard=GuardConfig(model="mini:guard"),
    synthesis=SynthesisConfig(prompts=[PromptSource(path="mini:train-harmful")]),
)
JUDGE = GuardConfig(kind="wildguard", model="allenai/wildguard")


def tree(path: Path) -> set[str]:
    return {p.name for p in path.iterdir()}


def test_a_new_run_has_config_manifest_and_lock(tmp_path):
    with Run.open(RECIPE, tmp_path / "runs" / "a") as run:
        run.log("train", step=1, loss=float("nan"))
    assert tree(run.path) == {"config.yaml", "manifest.json", "metrics.jsonl", "lock"}
    assert load_recipe(run.path / "config.yaml") == RECIPE
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert {"python", "jax", "thinksafe-jax", "orbax-checkpoint"} <= manifest["versions"].keys()
    line = json.loads((run.path / "metrics.jsonl").read_text())
    assert (line["stage"], line["step"], line["loss"]) == ("train", 1, None)
    assert "time" in line


def test_what_is_done_is_known_at_the_next_start_for_the_same_inputs_only(tmp_path):
    with Run.open(RECIPE, tmp_path) as run:
        assert not run.is_done("sample", "abc")
        run.mark_done("sample", "abc", rows=12)
    with Run.open(RECIPE, tmp_path) as run:
        assert run.is_done("sample", "abc")
        assert not run.is_done("sample", "other")
        assert not run.is_done("train", "abc")
        assert run.facts("sample") == {"rows": 12}
        assert run.facts("train") == {}


def test_rows_of_a_run_lie_in_its_folders(tmp_path):
    with Run.open(RECIPE, tmp_path) as run:
        run.store("verdicts", ("id", "attempt")).append([{"id": "a", "attempt": 1}])
        assert run.store("verdicts", ("id", "attempt")).keys() == {("a", 1)}
    assert (tmp_path / "verdicts" / "part-00000.jsonl").exists()


def test_a_torn_metrics_line_is_cut_at_the_next_start(tmp_path):
    with Run.open(RECIPE, tmp_path) as run:
        run.log("train", step=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"time": "2')
    with Run.open(RECIPE, tmp_path) as run:
        run.log("train", step=2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["step"] for x in lines] == [1, 2]


def test_another_configuration_is_refused_with_a_diff_and_the_ways_out(tmp_path):
    with Run.open(RECIPE, tmp_path):
        pass
    changed = replace(RECIPE, training=replace(RECIPE.training, epochs=1))
    with pytest.raises(ConfigError) as caught, Run.open(changed, tmp_path):
        pass
    message = str(caught.value)
    for part in ("training.epochs: 3 -> 1", "--run-dir", "--new-run"):
        assert part in message
    assert load_recipe(tmp_path / "config.yaml") == RECIPE


def test_the_engine_is_part_of_the_configuration(tmp_path):
    with Run.open(RECIPE, tmp_path):
        pass
    changed = replace(RECIPE, engine=replace(RECIPE.engine, slots=3))
    with pytest.raises(ConfigError, match=r"engine\.slots: 64 -> 3"), Run.open(changed, tmp_path):
        pass


def test_where_the_evaluation_alone_differs_the_way_to_ask_more_is_said(tmp_path):
    with Run.open(RECIPE, tmp_path / "run"):
        pass
    more = replace(RECIPE, evaluation=replace(RECIPE.evaluation, samples=4, limit=9))
    said = r"`thinksafe evaluate \S+/run --suite NAME` asks its student other questions"
    with pytest.raises(ConfigError, match=said), Run.open(more, tmp_path / "run"):
        pass
    with pytest.raises(ConfigError) as caught, Run.open(replace(more, seed=7), tmp_path / "run"):
        pass
    assert "--suite" not in str(caught.value)


def test_harmless_changes_are_taken_over(tmp_path):
    with Run.open(RECIPE, tmp_path) as run:
        run.mark_done("sample", "abc")
        before = run.manifest.content["recipe_hash"]
    training = replace(RECIPE.training, checkpoint_every=7, keep_checkpoints=5)
    changed = replace(RECIPE, name="other", training=training)
    with Run.open(changed, tmp_path) as run:
        assert run.is_done("sample", "abc")
        assert run.manifest.content["recipe_hash"] == before
    assert load_recipe(tmp_path / "config.yaml").training.checkpoint_every == 7


def test_new_verdicts_keep_the_samples_and_allow_another_guard_alone(tmp_path):
    with Run.open(RECIPE, tmp_path) as run:
        for name in ("samples", "verdicts"):
            run.store(name).append([{"id": "a"}])
        (tmp_path / "dataset").mkdir()
    other = replace(RECIPE, guard=GuardConfig(kind="wildguard", model="allenai/wildguard"))
    with pytest.raises(ConfigError, match="--new-verdicts"), Run.open(other, tmp_path):
        pass
    changed = replace(other, seed=7)
    with pytest.raises(ConfigError, match="seed"), Run.open(changed, tmp_path, new_verdicts=True):
        pass
    assert list((tmp_path / "verdicts").iterdir())
    with Run.open(other, tmp_path, new_verdicts=True) as run:
        assert run.store("samples").keys() == {"a"}
        assert not run.store("verdicts").keys() and not (tmp_path / "dataset").exists()
    with Run.open(other, tmp_path):
        assert load_recipe(tmp_path / "config.yaml").guard.kind == "wildguard"


def evaluated(path, *others):
    """What one evaluated run holds, and `others`."""
    names = ["evaluation/before.json", "evaluation/datasets.json", "report/report.html", *others]
    rooms = ("responses", "verdicts")
    names += [f"evaluation/before/{room}/part-00000.jsonl" for room in rooms]
    for name in (*names, "evaluation/before/rows.jsonl", "verdicts/part-00000.jsonl"):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n", encoding="utf-8")


def left(path):
    files = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return {*files} - {"config.yaml", "manifest.json", "lock"}


KEPT = {"evaluation/datasets.json", "evaluation/before/responses/part-00000.jsonl"}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, set()),
        ({"guard": replace(RECIPE.guard, dtype="float32")}, set()),
        ({"judge": JUDGE}, {"adapter/x", "verdicts/part-00000.jsonl"}),
        ({"judge": JUDGE, "guard": replace(RECIPE.guard, max_unparsed=0.5)},
         {"adapter/x", "verdicts/part-00000.jsonl"}),
        ({"judge": JUDGE, "guard": replace(RECIPE.guard, dtype="float32")}, set()),
    ],
)  # fmt: skip
def test_new_verdicts_are_those_of_who_changed(tmp_path, changes, kept):
    """Answers of the evaluation stay; another judge alone asks for no training anew."""
    with Run.open(RECIPE, tmp_path):
        evaluated(tmp_path, "adapter/x")
    with Run.open(replace(RECIPE, **changes), tmp_path, new_verdicts=True):
        assert left(tmp_path) == KEPT | kept


def test_new_verdicts_take_up_none_that_were_set_aside_and_delete_none(tmp_path):
    """Those of the same guard lie in `earlier/` under its hash; they would count as new."""
    earlier = tmp_path / "evaluation/before/earlier"
    for content in ("first", "second"):
        with Run.open(RECIPE, tmp_path):
            evaluated(tmp_path, "evaluation/before/earlier/responses-1f3a/part-00000.jsonl")
            (earlier / "verdicts-1f3a").mkdir()
            (earlier / "verdicts-1f3a/part-00000.jsonl").write_text(content)
        with Run.open(RECIPE, tmp_path, new_verdicts=True):
            assert not list(earlier.glob("verdicts-*")) and (earlier / "responses-1f3a").exists()
    assert {p.parent.name: p.read_text() for p in earlier.rglob("*verdicts*/*")} == {
        "replaced-verdicts-1f3a": "first",
        "replaced-verdicts-1f3a.2": "second",
    }


def test_new_run_deletes_the_earlier_run_and_nothing_else(tmp_path):
    with Run.open(RECIPE, tmp_path) as run:
        run.store("samples").append([{"id": "a"}])
        run.mark_done("sample", "abc")
        (run.path / "models.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    changed = replace(RECIPE, seed=1)
    with Run.open(changed, tmp_path, new_run=True) as run:
        assert not run.is_done("sample", "abc")
        assert not (run.path / "models.json").exists(), "or its commits would be asked for"
        assert run.store("samples").read() == []
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    for new_run in (False, True):
        with (
            pytest.raises(ConfigError, match=r"holds other files \(thesis\.tex\)"),
            Run.open(RECIPE, tmp_path, new_run=new_run),
        ):
            pass
    assert "config.yaml" not in tree(tmp_path)


@pytest.mark.parametrize("left", ["samples", "models.json"])
def test_what_lies_there_without_a_configuration_is_not_adopted(tmp_path, left):
    (tmp_path / left).mkdir()
    with pytest.raises(ConfigError, match=r"no config\.yaml"), Run.open(RECIPE, tmp_path):
        pass
    with Run.open(RECIPE, tmp_path, new_run=True):
        assert left not in tree(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"stages": {}}', '{"schema_version": 99, "stages": {}}']
)
def test_a_spoilt_manifest_is_named_with_the_way_out(tmp_path, content):
    with Run.open(RECIPE, tmp_path):
        pass
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json.*--new-run"), Run.open(RECIPE, tmp_path):
        pass


def test_resuming_with_other_versions_is_logged(tmp_path, caplog):
    with Run.open(RECIPE, tmp_path) as run:
        content = run.manifest.content
    content["versions"]["jax"] = "0.0.1"
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING), Run.open(RECIPE, tmp_path):
        assert "jax 0.0.1 -> " in caplog.text


def test_resuming_with_other_flags_of_the_compiler_is_logged(tmp_path, monkeypatch, caplog):
    """They make other programs, whose last bits may differ."""
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_a=1")
    for _ in range(2):
        with Run.open(RECIPE, tmp_path):
            assert "resuming" not in caplog.text
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    with caplog.at_level(logging.WARNING), Run.open(RECIPE, tmp_path):
        assert "other flags of the compiler: LIBTPU_INIT_ARGS --xla_a=1 -> absent" in caplog.text


HOLDER = """
import sys, time
from pathlib import Path
from thinksafe_jax.config import load_recipe
from thinksafe_jax.runs import Run, begun_recipe
with Run.open(load_recipe(Path(sys.argv[1])), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the run directory open."""
    with Run.open(RECIPE, tmp_path / "run"):
        pass
    command = [sys.executable, "-c", HOLDER, tmp_path / "run" / "config.yaml", tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_and_told_who_holds_the_directory(holder, tmp_path):
    message = f"in use by pid {holder.pid} on .* since 20"
    with (
        pytest.raises(ConfigError, match=message) as caught,
        Run.open(RECIPE, tmp_path / "run", new_run=True),
    ):
        pass
    assert caught.value.exit_code == 2
    assert "config.yaml" in tree(tmp_path / "run"), "a refused --new-run deletes nothing"


def test_the_lock_of_a_killed_run_is_recovered_and_logged(holder, tmp_path, caplog):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with caplog.at_level(logging.WARNING), Run.open(RECIPE, tmp_path / "run"):
        assert f"recovered a stale lock, left by pid {holder.pid}" in caplog.text


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    message = r"lock: a file system without locks \(function not implemented\); mount it with flock"
    with pytest.raises(EnvironmentFault, match=message), Run.open(RECIPE, tmp_path):
        pass


def test_a_closed_run_leaves_no_stale_lock(tmp_path, caplog):
    for _ in range(2):
        with Run.open(RECIPE, tmp_path):
            pass
    assert "stale" not in caplog.text
    assert (tmp_path / "lock").read_bytes() == b""


def test_one_process_cannot_open_a_directory_twice(tmp_path):
    with (
        Run.open(RECIPE, tmp_path),
        pytest.raises(ConfigError, match=f"pid {os.getpid()}"),
        Run.open(RECIPE, tmp_path),
    ):
        pass


def test_content_hash_follows_values_and_files_not_folders_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text("1")
    assert content_hash(RECIPE, 1) == content_hash(replace(RECIPE), 1)
    assert content_hash(RECIPE, 1) != content_hash(replace(RECIPE, seed=1), 1)
    assert content_hash("ab", "c") != content_hash("a", "bc")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    (tmp_path / "b" / "x.json").write_text("2")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")
    assert content_hash(tmp_path / "absent") != content_hash(tmp_path / "a")


def test_a_run_inside_another_run_is_refused_before_anything_is_made(tmp_path):
    with Run.open(RECIPE, tmp_path / "outer"):
        pass
    inner = tmp_path / "outer/samples/inner"
    with (
        pytest.raises(ConfigError, match=r"inner lies inside the run .*outer,.* beside it"),
        Run.open(RECIPE, inner),
    ):
        pass
    assert not inner.parent.exists()


def test_a_run_inside_another_run_that_was_begun_before_goes_on(tmp_path):
    inner = tmp_path / "outer/inner"
    with Run.open(RECIPE, inner):
        pass
    with Run.open(RECIPE, tmp_path / "elsewhere"):
        pass
    for name in ("config.yaml", "manifest.json", "lock"):
        (tmp_path / "outer" / name).write_bytes((tmp_path / "elsewhere" / name).read_bytes())
    with Run.open(RECIPE, inner) as run:
        assert run.path == inner


@pytest.mark.parametrize("read", ["continue", "alone"])
def test_a_config_of_another_version_is_said_to_be_one(tmp_path, read):
    with Run.open(RECIPE, tmp_path):
        pass
    file, manifest = tmp_path / "config.yaml", tmp_path / "manifest.json"
    file.write_text(file.read_text().replace("training:\n", "training:\n  muon_momentum: 0.95\n"))
    content = json.loads(manifest.read_text())
    content["versions"]["thinksafe-jax"] = "7.1"
    manifest.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        if read == "alone":
            begun_recipe(tmp_path)
        else:
            with Run.open(RECIPE, tmp_path):
                pass
    assert "training.muon_momentum: unknown key" in str(caught.value)
    assert "was begun with version 7.1 of thinksafe-jax; this is" in str(caught.value)
    manifest.write_text("{")
    with pytest.raises(ConfigError, match="begun with version unknown"):
        begun_recipe(tmp_path)


def test_a_mistake_in_an_override_is_not_the_runs(tmp_path):
    with Run.open(RECIPE, tmp_path):
        pass
    assert begun_recipe(tmp_path, ["training.epochs=1"]).training.epochs == 1
    with pytest.raises(ConfigError) as caught:
        begun_recipe(tmp_path, ["training.epoch=1"])
    assert "version" not in str(caught.value)


def test_a_config_without_a_newer_key_is_read_with_its_default(tmp_path):
    with Run.open(RECIPE, tmp_path):
        pass
    file = tmp_path / "config.yaml"
    lines = [line for line in file.read_text().splitlines() if "heldout_rows" not in line]
    file.write_text("\n".join(lines) + "\n")
    assert begun_recipe(tmp_path) == RECIPE
