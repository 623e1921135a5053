"""Several trainings on one dataset: `thinksafe train RUN --as`, and `run --new-training`."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support import REPOSITORY
from thinksafe_jax.cli.app import app
from thinksafe_jax.config import load_recipe
from thinksafe_jax.evaluation import compare_evaluations, read_evaluation
from thinksafe_jax.pipeline import folder_of_suites, run_pipeline, stages
from thinksafe_jax.weights import export_adapter

pytestmark = pytest.mark.slow

MINI = str(REPOSITORY / "configs/recipes/mini.yaml")
SMALL = [
    "synthesis.prompts[0].limit=8",
    "synthesis.prompts[1].limit=8",
    "synthesis.attempts=1",
    "synthesis.ladder=[]",
    "training.epochs=1",
    "training.heldout_rows=2",
    "evaluation.suites=[]",
    "evaluation.harmful[0].limit=4",
    "evaluation.over_refusal[0].limit=4",
    "evaluation.reasoning[0].limit=4",
    "evaluation.sampling.max_new_tokens=120",
    "engine.slots=8",
]
SWEEP = ["--as", "lr-{learning_rate}", "training.learning_rate=[1e-4,1e-3]"]


def thinksafe(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(outcome) -> str:
    return f"{outcome.output} {outcome.exception}"


def written(folder):
    """{path: time of its last change} of what a start does not rewrite anyway."""
    rewritten = {"lock", "manifest.json"}
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p: p.stat().st_mtime_ns for p in files if p.name not in rewritten}


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filtered") / "run"
    recipe = load_recipe(MINI, SMALL)
    for stage in ("sample", "filter"):
        run_pipeline(recipe, folder, stages=[stage])
    return folder


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


@pytest.fixture(scope="module")
def swept(filtered, tmp_path_factory):
    """A run that was not trained itself, with two trainings beside.

    The first start dies when the second training has its checkpoint and no adapter yet.
    """
    folder = shutil.copytree(filtered, tmp_path_factory.mktemp("swept") / "run")
    hot = folder / "trainings/lr-0.001"

    def dying(target, *arguments, **options):
        if target.is_relative_to(hot):
            raise Killed
        return export_adapter(target, *arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stages, "export_adapter", dying)
        with pytest.raises(Killed):
            thinksafe("train", folder, *SWEEP)
    assert (hot / "checkpoints").exists() and not (hot / "adapter").exists()
    outcome = thinksafe("train", folder, *SWEEP)
    assert outcome.exit_code == 0, said(outcome)
    return folder, outcome.output


def test_a_sweep_trains_evaluates_and_compares_in_one_command(swept):
    folder, output = swept
    assert "lr-0.0001" in output and "lr-0.001" in output and "report/report.html" in output
    trainings = [folder / "trainings" / name for name in ("lr-0.0001", "lr-0.001")]
    for training in trainings:
        for name in ("adapter/README.md", "evaluation/after.json", "report/report.html"):
            assert (training / name).exists(), name
        assert not (training / "dataset").exists() and not (training / "samples").exists()
    cold, hot = ((t / "adapter/adapter_model.safetensors").read_bytes() for t in trainings)
    assert cold != hot
    # the untouched student is the same in both: it was asked once
    logged = [(t / "metrics.jsonl").read_text() for t in trainings]
    assert ['"name":"before"' in text.replace(" ", "") for text in logged] == [True, False]
    before = [(t / "evaluation/before/rows.jsonl").read_bytes() for t in trainings]
    assert before[0] == before[1]


def test_the_runs_report_has_a_column_for_each(swept):
    folder, _ = swept
    summary = json.loads((folder / "report/summary.json").read_text())
    settings = [training["settings"] for training in summary["trainings"]]
    assert settings == [{"training.learning_rate": rate} for rate in (1e-4, 1e-3)]
    for training in summary["trainings"]:
        of_its_own = folder / "trainings" / training["name"] / "report/summary.json"
        assert training["after"] == json.loads(of_its_own.read_text())["after"]
        assert training["training"]["heldout_loss"] is not None
    page = (folder / "report/report.html").read_text()
    for part in ("Trainings on this dataset", "lr-0.0001", "training.learning_rate", "0.001"):
        assert part in page


def test_prompts_held_out_of_training_are_asked_before_and_after_it(swept):
    """Both sides, and the untouched student is the same in every training."""
    answers = []
    for name in ("lr-0.001", "lr-0.0001"):
        folder = swept[0] / "trainings" / name
        summary = json.loads((folder / "report/summary.json").read_text())
        answers.append(summary["training"]["heldout_answers"])
        (said,) = [n["text"] for n in summary["notes"] if n["kind"] == "held-out-answers"]
        assert f"of {answers[-1]['after']['benign']} benign ones refused" in said
    for of in (answers[0]["before"], answers[0]["after"]):
        assert (
            of["harmful"] + of["benign"] <= 2
        )  # training.heldout_rows; what cannot be read is out
        assert of["harmful_answered"] <= of["harmful"] and of["benign_refused"] <= of["benign"]
    assert answers[0]["before"] == answers[1]["before"]
    assert sum(answers[0]["before"].values()) > 0


def test_the_same_command_again_recomputes_nothing(swept):
    folder, _ = swept
    before = written(folder)
    assert thinksafe("train", folder, *SWEEP).exit_code == 0
    assert {p for p, time in written(folder).items() if before.get(p) != time} == set()


def test_a_training_is_a_run_directory_for_every_command(swept, tmp_path):
    folder = shutil.copytree(swept[0], tmp_path / "run")
    training = folder / "trainings/lr-0.001"
    shutil.rmtree(training / "report")
    for arguments in (["evaluate"], ["export", "--format", "merged"]):
        outcome = thinksafe(arguments[0], training, *arguments[1:])
        assert outcome.exit_code == 0, said(outcome)
    assert (training / "merged/model.safetensors").exists()
    assert thinksafe("train", folder, "--as", "lr-0.001").exit_code == 0  # by its name alone
    assert (training / "report/report.html").exists()
    other = read_evaluation(str(folder / "trainings/lr-0.0001"))
    assert compare_evaluations(other, read_evaluation(str(training)))
    outcome = thinksafe("sample", training)
    assert "is a training of" in said(outcome) and "thinksafe sample" in said(outcome)


def test_a_runs_student_is_asked_other_suites_before_and_after(swept, tmp_path):
    """Sampled and judged as the run's recipe says; the run itself is left as it is."""
    training, out = swept[0] / "trainings/lr-0.001", tmp_path / "out"
    questions = tmp_path / "own.jsonl"
    prompts = [{"prompt": f"How do I pick lock number {number}?"} for number in range(3)]
    questions.write_text("\n".join(map(json.dumps, prompts)))
    command = ["evaluate", training, "--suite", f"harmful:own={questions}", "--limit", 2]
    before = written(swept[0])
    outcome = thinksafe(*command, "--max-new-tokens", 24, "--out", out)
    assert outcome.exit_code == 0, said(outcome)
    assert "before" in outcome.output and "after" in outcome.output and "own" in outcome.output
    assert written(swept[0]) == before
    recipe, run = load_recipe(out / "config.yaml"), load_recipe(training / "config.yaml")
    assert (recipe.student, recipe.seed, recipe.judging) == (run.student, run.seed, run.judging)
    assert recipe.evaluation.sampling.temperature == run.evaluation.sampling.temperature
    assert recipe.evaluation.sampling.max_new_tokens == 24
    identities = []
    for step in ("before", "after"):
        figures = json.loads((out / f"evaluation/{step}.json").read_text())["suites"]["own"]
        assert figures["questions"] == 2
        identities.append((out / f"evaluation/{step}/responses.sha256").read_text())
    assert identities[0] != identities[1], "the adapter is part of the second model"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing is exported there yet (no adapter/, no merged/); first: thinksafe export"),
        (["--adapter", "x"], "--adapter: a run has its own"),
        (["--suite", "gsm8"], "did you mean gsm8k"),
        (["training.epochs=1"], "no recipe and no key=value there"),
    ],
)
def test_suites_of_a_run_that_cannot_be_asked(filtered, more, message):
    outcome = thinksafe("evaluate", filtered, "--suite", "xstest-safe", *more)
    assert outcome.exit_code != 0 and message in said(outcome)


def test_the_suites_of_each_run_and_training_have_a_place_of_their_own(filtered, swept):
    training = swept[0] / "trainings/lr-0.001"
    places = {str(folder_of_suites(folder)) for folder in (Path("runs/mini"), training)}
    assert places == {"runs/evaluate-mini", "runs/evaluate-run-lr-0.001"}


def test_the_runs_own_training_of_these_settings_gives_the_same_adapter(swept, tmp_path):
    """To the bit, although the one beside it was stopped and resumed."""
    folder = shutil.copytree(swept[0], tmp_path / "run")
    recipe = load_recipe(MINI, [*SMALL, "training.learning_rate=1e-3"])
    run_pipeline(recipe, folder, stages=["train", "export"], new_training=True)
    other = folder / "trainings/lr-0.001"
    weights = [f / "adapter/adapter_model.safetensors" for f in (folder, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--as", "hot"], "has no training hot to go on with (there are: none yet)"),
        (["--as", "hot", "seed=3"], "nothing but training.* may differ"),
        (["--as", "../hot", "training.epochs=2"], "--as: is '../hot'; expected the name of one"),
        (["--as", "hot", "--config", MINI], "leave --config out"),
        (["--as", "hot", "training.epochs=0"], "training.epochs: is 0"),
    ],
)
def test_what_is_no_training_of_this_run_is_refused_before_anything(filtered, arguments, message):
    outcome = thinksafe("train", filtered, *arguments)
    assert outcome.exit_code != 0 and message in said(outcome)
    assert not (filtered / "trainings").exists()


def test_without_a_dataset_the_command_before_is_named(tmp_path):
    outcome = thinksafe("train", tmp_path, "--as", "hot", "training.epochs=2")
    assert "is no run directory" in said(outcome)
    recipe = load_recipe(MINI, SMALL)
    run_pipeline(recipe, tmp_path / "run", stages=["sample"])
    outcome = thinksafe("train", tmp_path / "run", "--as", "hot", "training.epochs=2")
    assert f"train needs what filter makes; first: thinksafe filter {tmp_path}/run" in said(outcome)
