"""The console script: exit codes, one line for each error, help that needs no JAX."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.runs.test_directory import RECIPE
from thinksafe_jax import __version__, cli, errors
from thinksafe_jax.config import to_yaml
from thinksafe_jax.runs import Run

COMMANDS = (
    "run",
    "check",
    "sample",
    "filter",
    "train",
    "export",
    "evaluate",
    "report",
    "doctor",
    "chat",
    "init",
)


def thinksafe(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thinksafe_jax", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd)


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    file = tmp_path / "test.yaml"
    file.write_text(to_yaml(RECIPE))
    return file


@pytest.fixture
def pipeline(monkeypatch):
    """Stands in for the pipeline: records its calls, raises what `pipeline.error` says."""
    module = types.ModuleType("thinksafe_jax.pipeline")
    calls: list = []
    state = types.SimpleNamespace(calls=calls, error=None)

    def run_pipeline(recipe, run_dir, **options):
        calls.append((recipe, run_dir, options))
        if state.error:
            raise state.error

    module.__dict__["run_pipeline"] = run_pipeline
    monkeypatch.setitem(sys.modules, "thinksafe_jax.pipeline", module)
    return state


def exit_code(monkeypatch, *arguments: object) -> int:
    """The script run in this process."""
    monkeypatch.setattr(sys, "argv", ["thinksafe", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int | None)
    return caught.value.code or 0


def test_help_is_quick_to_import_and_lists_every_command():
    probe = (
        "import sys; from thinksafe_jax import cli\n"
        "sys.argv = ['thinksafe', '--help']\n"
        "try: cli.main()\n"
        "finally: print('heavy:', {'jax', 'torch', 'transformers', 'flax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0
    assert "heavy: set()" in done.stdout
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, monkeypatch, capsys):
    assert exit_code(monkeypatch, command, "--help") == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"thinksafe {command}" in text.split("Example", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "no recipe given"),
        (["run", "--config", "absent.yaml"], "no recipe at absent.yaml"),
        (["run", "--confg", "x"], "No such option"),
        (["fly"], "No such command"),
        (["sample"], "Missing argument"),
        (["sample", "no-run"], "no-run is no run directory"),
        (["run", "-c", "test.yaml", "training.epoch=1"], "did you mean training.epochs?"),
        (["run", "-c", "test.yaml", "synthesis.sampling.temperature=.nan"], "temperature: is nan"),
        (["run", "-c", "test.yaml", "synthesis.sampling.top_p=0"], "top_p: is 0"),
        (["run", "-c", "test.yaml", "name=${oc.env:HOME}"], "only a reference to a key"),
    ],
)
def test_wrong_usage_and_wrong_config_exit_2(
    arguments, said, recipe_file, monkeypatch, capsys, pipeline
):
    monkeypatch.chdir(recipe_file.parent)
    assert exit_code(monkeypatch, *arguments) == 2
    assert said in capsys.readouterr().err
    assert pipeline.calls == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.InputError("x"), 3),
        (errors.EnvironmentFault("x"), 4),
        (errors.RetryLater("x"), 75),
        (errors.Terminated(15), 143),
        (errors.Terminated(2), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(error, code, recipe_file, tmp_path, monkeypatch, pipeline):
    pipeline.error = error
    arguments = ["run", "-c", recipe_file, "--run-dir", tmp_path / "run"]
    assert exit_code(monkeypatch, *arguments) == code


def test_an_error_is_shown_as_text_not_as_markup_or_escapes(
    recipe_file, tmp_path, monkeypatch, pipeline, capsys
):
    pipeline.error = errors.InputError("row [red]1[/red] \x1b[2Jis bad")
    exit_code(monkeypatch, "run", "-c", recipe_file, "--run-dir", tmp_path / "run")
    assert capsys.readouterr().err == "error: row [red]1[/red] is bad\n"


def test_run_hands_recipe_directory_and_flags_on(recipe_file, tmp_path, monkeypatch, pipeline):
    folder = tmp_path / "run"
    more = ["--new-run", "--new-verdicts", "--limit", 7, "training.epochs=1", "seed=5"]
    assert exit_code(monkeypatch, "run", "-c", recipe_file, "--run-dir", folder, *more) == 0
    ((recipe, where, options),) = pipeline.calls
    assert (recipe.training.epochs, recipe.seed, where) == (1, 5, folder)
    assert recipe.synthesis.limit == 7
    anew = {"new_run": True, "new_verdicts": True, "new_training": False}
    assert options == {"stages": None, "skip_bad_rows": False, **anew}


def test_without_a_run_dir_the_recipe_says_where(recipe_file, tmp_path, monkeypatch, pipeline):
    monkeypatch.chdir(tmp_path)
    exit_code(monkeypatch, "run", "-c", recipe_file)
    exit_code(monkeypatch, "run", "-c", recipe_file, "run_dir=elsewhere")
    assert [str(where) for _, where, _ in pipeline.calls] == ["runs/test", "elsewhere"]


def test_an_option_with_an_equals_sign_may_begin_at_home(
    recipe_file, tmp_path, monkeypatch, pipeline
):
    """No shell expands `~` there; the run would go to a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    exit_code(monkeypatch, "run", "--config=~/test.yaml", "--run-dir=~/here")
    exit_code(monkeypatch, "run", "-c", recipe_file, "run_dir=~/there")
    assert [str(where) for _, where, _ in pipeline.calls] == [
        f"{tmp_path}/here", f"{tmp_path}/there"
    ]  # fmt: skip
    assert not (tmp_path / "~").exists()


def test_a_trial_goes_to_a_folder_of_its_own(recipe_file, tmp_path, monkeypatch, pipeline):
    monkeypatch.chdir(tmp_path)
    exit_code(monkeypatch, "run", "-c", recipe_file, "--trial", 9)
    exit_code(monkeypatch, "run", "-c", recipe_file, "--trial", 9, "--run-dir", "here")
    (trial, folder, _), (_, named, _) = pipeline.calls
    assert (str(folder), str(named)) == ("runs/test-trial", "here")
    assert (trial.trial, trial.synthesis.limit, trial.evaluation.limit) == (True, 9, 9)


def test_a_stage_command_runs_that_stage_with_the_directorys_own_recipe(
    tmp_path, monkeypatch, pipeline
):
    with Run.open(RECIPE, tmp_path / "run"):
        pass
    assert exit_code(monkeypatch, "filter", tmp_path / "run", "--skip-bad-rows") == 0
    ((recipe, where, options),) = pipeline.calls
    assert (recipe, where) == (RECIPE, tmp_path / "run")
    assert options == {"stages": ["filter"], "skip_bad_rows": True}


def test_a_stage_command_can_begin_a_directory(recipe_file, tmp_path, monkeypatch, pipeline):
    assert exit_code(monkeypatch, "sample", tmp_path / "new", "--config", recipe_file) == 0
    assert pipeline.calls[0][1] == tmp_path / "new"


def test_an_impossible_run_dir_is_refused_before_anything_heavy(recipe_file, tmp_path):
    (tmp_path / "file").write_text("")
    done = thinksafe("run", "-c", recipe_file, "--run-dir", tmp_path / "file" / "run")
    assert done.returncode == 4
    assert "a file is in the way" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "plan --model mini:student --mesh cpu-8 --json",
        "sweep-sharding --models mini:student --meshes cpu-8 --csv",
        "verify mini:student --json",
        "score rows.jsonl --suite gsm8k --json",
        "compare a b --json",
        "report a b --out",
        "dataset export a --authors",
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_it_is_computed(
    command, tmp_path, monkeypatch, capsys
):
    """Of what is named before it nothing is here: it was not looked at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for wrong, code, said in (
        ("file/out", 4, "file: a file is in the way"),
        (".", 2, "the name of a file is expected"),
        ("gs://bucket/out", 2, "this is written to a disk only"),
    ):
        assert exit_code(monkeypatch, *command.split(), wrong) == code
        assert said in capsys.readouterr().err


def test_version(monkeypatch, capsys):
    assert exit_code(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_help_names_every_choice_there_is(monkeypatch, capsys):
    from thinksafe_jax.analysis.analyses import ANALYSES
    from thinksafe_jax.evaluation.presets import PRESETS
    from thinksafe_jax.synthesis import TEMPLATES
    from thinksafe_jax.weights import BOUNDS

    monkeypatch.setenv("COLUMNS", "300")
    for command, names in (
        ("analyze", ANALYSES),
        ("evaluate", PRESETS),
        ("probe", TEMPLATES),
        ("verify", BOUNDS),
    ):
        assert exit_code(monkeypatch, command, "--help") == 0
        text = capsys.readouterr().out
        assert [name for name in names if name not in text] == [], command


SCRIPT = "import sys; sys.argv[0] = 'thinksafe'; from thinksafe_jax.cli import main; main()"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("thinksafe cha", "chat"), ("thinksafe chat --ada", "--adapter")],
)
def test_the_shell_completes_commands_and_options(typed, completed):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    env = {**os.environ, "_THINKSAFE_COMPLETE": "complete_bash", **words}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, [completed]), done.stderr


def test_completion_is_printed_and_nothing_is_written_unasked(tmp_path):
    command = ["bash", "-c", f'{sys.executable} -c "{SCRIPT}" --show-completion; exit $?']
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_THINKSAFE_COMPLETE=complete_bash" in done.stdout
    assert list(tmp_path.iterdir()) == []
