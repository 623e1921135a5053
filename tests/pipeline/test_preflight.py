"""What a run lacks is said before it begins: all of it, within seconds, and nothing is written."""

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thinksafe_jax import cli
from thinksafe_jax.config import (
    EngineConfig,
    EvaluationConfig,
    GuardConfig,
    GuardModel,
    HorizonConfig,
    ModelSource,
    OnPolicyConfig,
    PromptSource,
    Recipe,
    RewardTerm,
    SamplingConfig,
    SuiteConfig,
    SynthesisConfig,
    TrainingConfig,
    as_trial,
    load_recipe,
)
from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError, MissingRequirement
from thinksafe_jax.evaluation.answers import equality
from thinksafe_jax.pipeline import (
    Session,
    cost_line,
    disk_checks,
    preflight,
    run_pipeline,
    stages_of,
)
from thinksafe_jax.pipeline.fault_list import FaultList
from thinksafe_jax.pipeline.mesh_advice import mesh_advice
from thinksafe_jax.runs import Run
from thinksafe_jax.sharding import device_topology
from thinksafe_jax.training import TrainingMesh
from thinksafe_jax.weights import resolve_model

MINI = [PromptSource("mini:train-harmful", limit=4), PromptSource("mini:train-benign", limit=4)]
RECIPE = Recipe(
    name="ready",
    student=ModelSource("mini:student", dtype="float32"),
    guard=GuardConfig(model="mini:guard", dtype="float32", max_length=512),
    engine=EngineConfig(max_length=256),
    synthesis=SynthesisConfig(prompts=MINI, sampling=SamplingConfig(max_new_tokens=64)),
    evaluation=EvaluationConfig(
        harmful=[PromptSource("mini:heldout-harmful", limit=2)],
        judge="mini",
        sampling=SamplingConfig(max_new_tokens=64),
    ),
)


def missing(recipe: Recipe, run_dir: Path, *stages: str, **options) -> list[str]:
    """The sentences of the preflight of a start."""
    session = Session(recipe)
    faults = preflight(session, run_dir, stages or stages_of(recipe), **options)
    return [str(error) for error in faults.errors()]


def changed(section: str, **values) -> Recipe:
    """RECIPE with other values in a section."""
    return replace(RECIPE, **{section: replace(getattr(RECIPE, section), **values)})


def test_a_run_that_lacks_nothing_starts_and_nothing_was_written(tmp_path):
    assert missing(RECIPE, tmp_path / "deeper/run") == []
    assert list(tmp_path.iterdir()) == []


def test_prompts_without_a_word_are_no_prompts(tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_text('prompt,label\n" ",harmful\n')
    source = PromptSource(str(file), label_column="label")
    line = missing(changed("synthesis", prompts=[source]), tmp_path / "run", "sample")[-1]
    assert line == "synthesis.prompts: all 1 prompts are empty: see prompt_column"


def test_what_a_run_will_take_is_said_before_it_begins(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    assert missing(as_trial(RECIPE, 3), tmp_path) == []
    ready, cost = caplog.messages[:2]
    assert "room on the disk for " in ready and " MB, mini:student" in ready
    # 3 prompts and 2 questions, each of 64 tokens at most; no hours, as a CPU's facts are nominal
    expected = (
        "the trial in all: up to 3 responses and 4 answers of the evaluations, about 448 tokens, "
    )
    assert cost.startswith(expected) and cost.endswith(" FLOPs")
    monkeypatch.setattr(cost_line, "_machine", lambda mesh: (device_topology("TPU v5e"), "a v5e"))
    caplog.clear()
    missing(RECIPE, tmp_path)
    assert caplog.messages[1].startswith("the run in all: up to 8 responses and 4 answers")
    assert caplog.messages[1].endswith(" FLOPs, about 0.1 min on a v5e")
    caplog.clear()
    missing(RECIPE, tmp_path, "evaluate")  # nothing is sampled for training
    assert "in all:" not in caplog.text


def test_everything_that_is_missing_is_told_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.csv").write_text("question,label\nHow?,harmful\n")
    Path("file").write_text("")
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    broken = replace(
        RECIPE,
        mesh="v5e-256",
        student=ModelSource("mini:studnt"),
        guard=replace(RECIPE.guard, kind="qwen3guard"),
        judge=GuardConfig(model="no/such/folder"),
        synthesis=replace(
            RECIPE.synthesis,
            prompts=[
                PromptSource("gone.jsonl", label="harmful"),
                PromptSource("prompts.csv", label_column="label"),
                PromptSource("mini:train-benign"),
            ],
        ),
        evaluation=EvaluationConfig(
            harmful=[PromptSource("gone.csv", label="harmful")],
            suites=[SuiteConfig("gsm8k", path="gone.jsonl")],
        ),
        training=TrainingConfig(trackers=["wandb"]),
    )
    lines = missing(broken, tmp_path / "file/run")
    told = [
        "run_dir: ",
        "evaluation.harmful[0]: gone.csv: no such prompt file",
        "evaluation.suites[0]: gone.jsonl: no such file",
        "synthesis.prompts[0]: gone.jsonl: no such prompt file",
        "synthesis.prompts[1]: prompts.csv:2: no column 'prompt'",
        "student.model: mini:studnt: the packaged models are",
        "guard.kind: kind is qwen3guard, but the chat template of mini:guard is that of a llama",
        "guard.mesh: ",
        "judge.model: no/such/folder: no such directory, and not a Hub id",
        "missing: training.trackers names wandb, but wandb is not installed: pip install",
    ]
    assert len(lines) == len(told), lines
    for line, beginning in zip(lines, told, strict=True):
        assert line.startswith(beginning), line


def test_the_exit_code_is_that_of_what_passes_least_by_itself():
    faults = FaultList()
    faults.note(EnvironmentFault("the network is away"))
    with pytest.raises(EnvironmentFault, match=r"^the network is away$"):
        faults.refuse()
    faults.note(MissingRequirement("accept the licence"), "guard.model")
    with pytest.raises(MissingRequirement) as caught:
        faults.refuse()
    # scripts that start a run again look for this word (scripts/launch/queued_spot.sh)
    assert str(caught.value) == (
        "missing: 2 problems; nothing was started\n"
        "  the network is away\n"
        "  guard.model: accept the licence"
    )
    faults.note(InputError("no column"))
    faults.note(ConfigError("mesh: too large"), "mesh")  # its key is not said twice
    with pytest.raises(ConfigError, match=r"4 problems(.|\n)*\n  mesh: too large$"):
        faults.refuse()


def test_a_run_that_is_refused_leaves_no_directory_and_an_earlier_run_whole(tmp_path):
    wrong = replace(RECIPE, guard=replace(RECIPE.guard, kind="qwen3guard"))
    with pytest.raises(ConfigError, match=r"^guard\.kind: "):
        run_pipeline(wrong, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    with Run.open(RECIPE, tmp_path / "run"):
        pass
    with pytest.raises(ConfigError, match=r"^guard\.kind: "):
        run_pipeline(wrong, tmp_path / "run", new_run=True)
    assert (tmp_path / "run/config.yaml").exists()


@pytest.mark.parametrize(
    "stages, lacks", [(["sample"], False), (["filter"], True), (["train", "export"], False)]
)
def test_only_what_the_stages_need_is_looked_for(stages, lacks, tmp_path):
    """One attempt alone asks no guard while sampling."""
    recipe = replace(RECIPE, guard=replace(RECIPE.guard, model="mini:gard"))
    assert bool(missing(recipe, tmp_path, *stages)) == lacks


def test_the_guard_is_looked_for_before_sampling_where_it_is_asked_between_attempts(tmp_path):
    guard = replace(RECIPE.guard, model="mini:gard")
    recipe = replace(changed("synthesis", attempts=2), guard=guard)
    assert "guard.model: mini:gard" in missing(recipe, tmp_path, "sample")[0]


def test_what_is_done_needs_nothing_unless_it_is_made_anew(tmp_path):
    with Run.open(RECIPE, tmp_path) as run:
        for stage in ("sample", "filter"):
            run.mark_done(stage, "inputs")
    recipe = replace(RECIPE, guard=replace(RECIPE.guard, model="mini:gard"))
    recipe = replace(recipe, synthesis=replace(recipe.synthesis, prompts=[PromptSource("x.csv")]))
    stages = ("sample", "filter")
    assert missing(recipe, tmp_path, *stages) == []
    assert len(missing(recipe, tmp_path, *stages, keeps=["sample"])) == 1  # --new-verdicts
    assert len(missing(recipe, tmp_path, *stages, keeps=())) == 2  # --new-run


def test_members_of_a_majority_are_looked_at_one_by_one(tmp_path):
    members = [GuardModel(model="mini:gard"), GuardModel(kind="refusal-match"), GuardModel()]
    members[2] = GuardModel(model="mini:guard", kind="wildguard")
    recipe = replace(RECIPE, guard=GuardConfig(kind="majority", members=members))
    first, second = missing(recipe, tmp_path, "filter")
    assert first.startswith("guard.members[0].model: mini:gard")
    assert second.startswith("guard.members[2].kind: kind is wildguard, but the chat template of")


def test_a_model_whose_weights_do_not_fit_its_config_is_seen_by_the_headers(tmp_path):
    shutil.copytree(resolve_model("mini:student"), tmp_path / "student")
    file = tmp_path / "student/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "intermediate_size": config["intermediate_size"] + 8}))
    recipe = replace(RECIPE, student=ModelSource(str(tmp_path / "student")))
    (line,) = missing(recipe, tmp_path / "run")
    assert line.startswith("student.model: ") and "do not fit config.json" in line


def test_a_mesh_is_compared_with_model_and_devices(tmp_path):
    lines = missing(replace(RECIPE, mesh="h200-1"), tmp_path, "sample")
    assert lines == []
    (line,) = missing(replace(RECIPE, mesh="v5e-16"), tmp_path, "sample")
    assert line.startswith("mesh: ")


def test_prompts_that_cannot_fit_are_refused_and_long_ones_are_said(tmp_path, caplog):
    recipe = changed("engine", max_length=72)
    (line,) = missing(recipe, tmp_path, "sample")
    assert "no prompt fits: the shortest has" in line and "into the context, 72" in line
    recipe = replace(recipe, engine=EngineConfig(max_length=256, pool_tokens=64, page_size=16))
    (line,) = missing(recipe, tmp_path, "sample")
    assert "into the KV pool (engine.pool_tokens), 64" in line
    rows = [{"prompt": "Hi", "label": "harmful"}, {"prompt": "Why? " * 99, "label": "benign"}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = changed("synthesis", prompts=[PromptSource(str(file), label_column="label")])
    with caplog.at_level(logging.WARNING):
        assert missing(recipe, tmp_path, "sample") == []
    assert "the longest prompt has" in caplog.text and "are left out" in caplog.text


def test_the_rewards_of_a_loop_are_looked_at(tmp_path):
    on_policy = OnPolicyConfig(
        method="grpo", rewards=[RewardTerm("gone.py:reward")],
        sampling=SamplingConfig(max_new_tokens=64),
    )  # fmt: skip
    (line,) = missing(replace(RECIPE, on_policy=on_policy), tmp_path, "train")
    assert "gone.py" in line


def test_the_guard_of_a_loop_whose_rollouts_grow_is_looked_for(tmp_path):
    """Self-distillation needs no verdict to learn from, but to see how long rollouts may be."""
    sampling = SamplingConfig(1.0, 1.0, 0, max_new_tokens=64)
    distilled = OnPolicyConfig(method="self-distillation", sampling=sampling)
    recipe = replace(RECIPE, guard=replace(RECIPE.guard, model="mini:gard"), on_policy=distilled)
    assert missing(recipe, tmp_path, "train") == []
    growing = replace(distilled, horizon=HorizonConfig(lengths=[8, 64]))
    (line,) = missing(replace(recipe, on_policy=growing), tmp_path, "train")
    assert line.startswith("guard.model: mini:gard")


def test_a_teacher_that_does_not_fit_the_mesh_is_seen(tmp_path, monkeypatch):
    """It lies where the student is trained, and is loaded before the first rollout."""
    teacher = ModelSource("mini:teacher", dtype="float32")
    on_policy = OnPolicyConfig(
        method="opd", teacher=teacher, samples=1, sampling=SamplingConfig(max_new_tokens=64)
    )
    recipe = replace(RECIPE, on_policy=on_policy, mesh="cpu-8")
    assert missing(recipe, tmp_path, "train") == []
    of_phase, student = TrainingMesh.of_phase, Session(RECIPE).cfg

    def fits_the_student_alone(phase, cfg):
        if cfg != student:
            raise ConfigError("the rules do not fit the model")
        return of_phase(phase, cfg)

    monkeypatch.setattr(TrainingMesh, "of_phase", fits_the_student_alone)
    (line,) = missing(recipe, tmp_path, "train")
    assert line == "on_policy.teacher: the rules do not fit the model"


def test_what_compares_answers_is_looked_for_before_any_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(equality.importlib.util, "find_spec", lambda name: None)
    recipe = changed(
        "evaluation",
        judge="guard",
        reasoning=[PromptSource("mini:heldout-arithmetic", answer_column="answer", limit=2)],
    )
    (line,) = missing(recipe, tmp_path, "evaluate")
    assert line.startswith("missing: evaluation: answers that are no plain numbers")
    assert "pip install 'math-verify" in line


def test_the_exact_judge_is_asked_beforehand_whether_it_knows_the_questions(tmp_path):
    """It once said so after sampling and training."""
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": ""}\n{"prompt": "Hello?"}\n')
    own = SuiteConfig("own", kind="harmful", path=str(file))
    (line,) = missing(changed("evaluation", suites=[own]), tmp_path / "run")
    assert line.startswith("evaluation: own: the mini judge knows only prompts of the mini world")
    assert "not 'Hello?'; set evaluation.judge to guard" in line
    asked = replace(own, kind="reasoning")
    file.write_text('{"prompt": "What is 2 + 2?", "answer": "4"}\n')
    assert missing(changed("evaluation", suites=[asked]), tmp_path / "run") == []


def test_disks_have_room_for_checkpoints_exports_and_downloads(tmp_path, monkeypatch, caplog):
    cfg = Session(RECIPE).cfg
    folder = tmp_path / "checkpoints"
    export = disk_checks.export_bytes(RECIPE, cfg)
    needed = disk_checks.checkpoint_bytes(RECIPE, cfg, folder) + export
    r = RECIPE.training.lora_r
    heads = (cfg.num_heads + cfg.num_kv_heads) * cfg.head_dim
    trained = 4 * cfg.num_layers * r * (2 * cfg.hidden_size + heads)  # q and v, a and b, float32
    # three checkpoints of weights and two moments, and the export; counters are a few bytes
    assert 10 * trained <= needed <= 10 * trained + 100
    monkeypatch.setattr(disk_checks, "free_bytes", lambda path: needed - 1)
    (line,) = missing(RECIPE, tmp_path, "train")
    assert line.startswith("disk: ") and "MB are needed" in line and str(tmp_path) in line
    monkeypatch.setattr(disk_checks, "free_bytes", lambda path: needed)
    assert missing(RECIPE, tmp_path, "train") == []


def test_what_lies_on_the_disk_is_not_needed_again(tmp_path, monkeypatch):
    """A run whose checkpoints are there goes on with the room for the one that is written next."""
    cfg, folder = Session(RECIPE).cfg, tmp_path / "checkpoints"
    export = disk_checks.export_bytes(RECIPE, cfg)
    fresh = disk_checks.checkpoint_bytes(RECIPE, cfg, folder)
    one = fresh // 3
    for step in ("1", "2"):
        (folder / step).mkdir(parents=True)
        (folder / step / "state").write_bytes(b"0" * one)
    assert disk_checks.checkpoint_bytes(RECIPE, cfg, folder) == fresh - 2 * one == one
    (folder / "2" / "more").write_bytes(b"0" * one)
    assert disk_checks.checkpoint_bytes(RECIPE, cfg, folder) == one
    monkeypatch.setattr(disk_checks, "free_bytes", lambda path: one + export)
    assert missing(RECIPE, tmp_path, "train") == []
    monkeypatch.setattr(disk_checks, "free_bytes", lambda path: export)
    assert missing(RECIPE, tmp_path, "export") == []
    assert len(missing(RECIPE, tmp_path, "train")) == 1


def test_folders_on_one_disk_are_added_up(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_checks, "free_bytes", lambda path: 100)
    disk_checks.require_room({tmp_path / "a": 60, tmp_path / "b": 40})
    with pytest.raises(EnvironmentFault, match="are needed"):
        disk_checks.require_room({tmp_path / "a": 60, tmp_path / "b": 41})


@pytest.mark.parametrize(
    "kind, count, says",
    [
        ("cpu", 8, "mesh=cpu-8 uses all of them"),
        ("TPU v5 lite", 8, "mesh=v5e-8 uses"),
        ("TPU v5 lite", 16, "mesh=v5e-16 uses"),
        ("TPU v6 lite", 64, "mesh=v6e-64 uses"),
        ("NVIDIA H100 80GB HBM3", 8, "mesh=h100-8 uses"),
        ("TPU v5", 6, "copy the nearest (`thinksafe configs copy mesh/v5p-8`), set its chips and"),
        ("Some new chip", 4, "docs/sharding.md says how"),
    ],
)
def test_on_several_devices_without_a_mesh_the_ready_one_is_named(kind, count, says):
    assert says in mesh_advice(kind, count)


def test_check_tells_it_on_the_command_line(tmp_path, monkeypatch, capsys):
    def check(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["thinksafe", "check", "-c", "mini", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    monkeypatch.chdir(tmp_path)
    assert check("--trial", "4") == 0
    printed = capsys.readouterr()
    assert "the run can start" in printed.out
    assert "the trial in all: up to 12 responses and 56 answers of the evaluations" in printed.err
    assert check("guard.model=mini:gard", "student.model=mini:studnt") == 3
    assert "error: 2 problems" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    # what `run` refuses because of what lies there
    with Run.open(as_trial(load_recipe("mini"), 4), Path("begun")):
        pass
    here = ("--trial", "4", "--run-dir")
    assert check(*here, "begun") == 0
    assert check(*here, "begun", "training.epochs=9") == 2
    assert " -> 9" in capsys.readouterr().err
    Path("other").mkdir()
    Path("other/thesis.tex").touch()
    assert check(*here, "other") == check(*here, "begun/inside") == 2
    said = capsys.readouterr().err
    assert "run_dir: other holds other files (thesis.tex)" in said
    assert "run_dir: begun/inside lies inside the run" in said
