"""The plan of a recipe: every stage with its memory, rates and hours, and what would fit."""

import dataclasses
import json
import os
import re

import jax
import pytest
from typer.testing import CliRunner

from tests.sharding.kit import write_mesh
from tests.support import REPOSITORY, live_arrays, shared_asset
from thinksafe_jax.cli.app import app
from thinksafe_jax.config import EvaluationConfig, PromptSource, SuiteConfig, load_recipe
from thinksafe_jax.data import load_questions, read_prompts
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.machine import host_memory
from thinksafe_jax.planning import Assumed, count_answers, expected_work, recipe_plan
from thinksafe_jax.planning.compiler import Compiled
from thinksafe_jax.planning.evaluation_plan import plan_evaluation
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.guard_plan import plan_guard
from thinksafe_jax.planning.memory import Settings, phase_budget
from thinksafe_jax.planning.recipe_plan import plan_recipe
from thinksafe_jax.planning.recipe_plan_report import as_json, recipe_plan_text
from thinksafe_jax.planning.roofline import decode_cost
from thinksafe_jax.planning.stage_plans import PlanRequest, StagePlan
from thinksafe_jax.planning.this_machine import this_machine
from thinksafe_jax.planning.train_plan import _peak_bytes
from thinksafe_jax.sharding import load_mesh

pytestmark = pytest.mark.slow

MINI = REPOSITORY / "configs/recipes/mini.yaml"
# the mini guard has three heads: one device holds it whole
ALONE = ("replica: 2, tensor: 4", "replica: 8, tensor: 1")
SAMPLED_AND_TRAINED = ("sample-decode", "sample-prefill", "train-step")


def mini_plan(tmp_path, *changes, overrides=(), assumed=None):
    mesh = load_mesh(write_mesh(tmp_path, ALONE, *changes))
    small = ["engine.slots=2", "training.micro_batch_size=8", "training.max_length=128"]
    return plan_recipe(load_recipe(MINI, [*small, *overrides]), mesh, assumed)


def test_every_stage_is_planned_and_nothing_is_allocated(tmp_path):
    before = len(live_arrays())
    plan = mini_plan(tmp_path)
    assert len(jax.live_arrays()) == before
    assert [stage.name for stage in plan.stages] == ["load", "sample", "guard", "train"]
    assert plan.fits and plan.counted
    _, sample, guard, train = plan.stages
    assert sample.bytes["kv pool"] > 0 and sample.bytes["activations"] > 0
    assert guard.bytes["student"] == sample.bytes["weights"]
    # it reads what may be sampled (128 tokens), not the 5,000 that are assumed of a response
    assert guard.facts[0].endswith("a row of 428 in the rates")
    assert {"weights", "adapter", "optimizer", "loss", "activations"} <= train.bytes.keys()
    for stage in (sample, guard, train):
        assert stage.compiler == "cpu" and stage.hours > 0 and stage.tokens_per_second > 0
    # the pool holds one row of the longest beside the second slot, which is computed all the same
    assert sample.call == "a decode step of 2 slots (1 filled)"
    cfg = find_model("mini:student")[1]
    cost = decode_cost(cfg, plan.mesh.generate.for_model(cfg), 2, 256 / 2, "float32")
    assert sample.bound.compute == cost.flops / plan.mesh.topology.peak_flops
    json.dumps(as_json(plan))
    text = recipe_plan_text(plan)
    assert "t >= max(F / flops, M / bandwidth, S / (interconnect / 2))" in text
    assert "chip-hours" in text


def test_both_evaluations_are_in_the_hours_and_a_trial_asks_less(tmp_path):
    whole = mini_plan(tmp_path)
    limits = ["trial=true", "synthesis.limit=4", "evaluation.limit=2"]
    few = mini_plan(tmp_path, overrides=limits)
    recipe = load_recipe(MINI)
    asked = load_questions(recipe.evaluation).items
    assert sum(whole.evaluation.answers.values()) == len(asked)  # one sample of each question
    suites = {question.suite for question in asked}
    assert sum(few.evaluation.answers.values()) == 2 * len(suites)
    for plan in (whole, few):
        assert plan.hours == sum(stage.hours for stage in plan.stages) + plan.evaluation.hours
        assert plan.evaluation.hours > 0
    # at the same rates: in proportion to what is asked
    answers = [sum(plan.evaluation.answers.values()) for plan in (whole, few)]
    shares = [plan.evaluation.hours / n for plan, n in zip((whole, few), answers, strict=True)]
    assert shares[0] == pytest.approx(shares[1], rel=0.5)
    assert few.hours < whole.hours
    # what a run says before it begins is the same bound, without compiled programs
    trial, answers = load_recipe(MINI, [*limits, "engine.slots=2"]), few.evaluation.answers
    said = expected_work(trial, few.prompts, answers, 300, lambda n: find_model(n)[1], few.mesh)
    assert few.hours / 3 < said.hours <= few.hours
    assert "the trial in all: at least" in recipe_plan_text(few)
    assert "evaluate  before and after, each" in recipe_plan_text(whole)


def test_prompts_held_out_of_training_are_in_the_hours_of_the_evaluation(tmp_path):
    """Ten of them among eight prompts are eight; they are asked by the evaluation's options."""
    mesh = load_mesh(write_mesh(tmp_path, ALONE))
    requests = [
        PlanRequest(load_recipe(MINI, changes), mesh, 8, Assumed())
        for changes in ([], ["training.heldout_rows=10"])
    ]
    rows, recipe = requests[0].rows, requests[0].recipe
    sample = StagePlan("sample", "mini", hours=float(rows))  # an hour for each row
    plans = [plan_evaluation(request, [sample]) for request in requests]
    assert [plan.heldout for plan in plans] == [0, 8]
    length = recipe.evaluation.sampling.max_new_tokens / recipe.synthesis.sampling.max_new_tokens
    assert plans[1].hours - plans[0].hours == pytest.approx(2 * 8 * length)
    assert "8 prompts held out of training are asked with it" in plans[1].facts
    assert plans[1].answers == plans[0].answers


def test_without_a_mesh_the_processor_here_is_planned(monkeypatch):
    """One device with all cores; a model that has no room here is meant for another machine."""
    recipe = load_recipe(MINI)
    mesh = this_machine(recipe)
    topology, core = mesh.topology, load_mesh("cpu-8").topology
    assert (topology.chips, mesh.train.devices, mesh.generate.devices) == (1, 1, 1)
    assert topology.peak_flops == os.cpu_count() * core.peak_flops
    assert topology.hbm_bytes == host_memory()
    monkeypatch.setattr("thinksafe_jax.planning.this_machine.host_memory", lambda: 1_000)
    with pytest.raises(ConfigError, match=r"names no mesh; give --mesh, .* of weights, this mach"):
        this_machine(recipe)


def test_prompts_that_are_here_say_how_long_they_are(monkeypatch):
    """They are read once. Where they are not here, what is assumed holds."""
    recipe, mesh = load_recipe(MINI), load_mesh("cpu-8")
    reads = []

    def reading(*args, **options):
        reads.append(args)
        return read_prompts(*args, **options)

    monkeypatch.setattr("thinksafe_jax.planning.recipe_plan.read_prompts", reading)
    prompts = read_prompts(recipe.synthesis.prompts, require_label=True).prompts
    letters = sum(len(prompt.text) for prompt in prompts) / len(prompts)
    by_letters = plan_recipe(recipe, mesh, Assumed(prompt_tokens=70), by_letters=True).assumed
    assert by_letters.prompt_tokens == 20 + round(letters / 4) < 60 and len(reads) == 1
    elsewhere = dataclasses.replace(recipe.synthesis, prompts=[PromptSource("nowhere.csv")])
    recipe = dataclasses.replace(recipe, synthesis=elsewhere)
    assert plan_recipe(recipe, mesh, by_letters=True).assumed.prompt_tokens == 300


def test_benchmarks_are_counted_by_their_facts_and_the_limits():
    suites = [SuiteConfig("aime24"), SuiteConfig("gpqa", limit=50)]
    cfg = EvaluationConfig(suites=suites, samples=8)
    assert count_answers(cfg) == {"reasoning": 8 * (30 + 50)}
    assert count_answers(dataclasses.replace(cfg, limit=10)) == {"reasoning": 8 * 20}
    assert count_answers(EvaluationConfig(harmful=[PromptSource("nowhere.csv")])) is None


def test_the_mean_context_follows_from_prompt_and_response():
    assert Assumed().mean_context(16384) == Settings().mean_context
    assert Assumed(response_tokens=500).mean_context(16384) == 300 + 490
    assert Assumed(prompt_tokens=1000).mean_context(16384) == 1000 + 4900
    # cut at 512 tokens, rows have 256 behind their prompt at most, however long they would be
    assert Assumed().mean_context(512) == 300 + 256


def test_hours_follow_from_prompts_tokens_and_rates(tmp_path):
    plan = mini_plan(tmp_path, assumed=Assumed(prompt_tokens=20, response_tokens=40))
    train = plan.stages[-1]
    epochs = load_recipe(MINI).training.epochs
    expected = plan.prompts * epochs * 60 / train.tokens_per_second / 3600
    assert train.hours == pytest.approx(expected)


def test_retries_keep_the_samplers_pool_beside_the_guard(tmp_path):
    once = mini_plan(tmp_path, overrides=["synthesis.attempts=1", "synthesis.ladder=[]"])
    again = mini_plan(tmp_path, overrides=["synthesis.attempts=2", "synthesis.ladder=[]"])
    assert "kv pool" not in once.stages[2].bytes
    assert again.stages[2].bytes["kv pool"] == again.stages[1].bytes["kv pool"]


def test_replicas_that_hosts_cannot_drive_are_a_problem_of_the_student_and_of_the_guard(tmp_path):
    mesh = load_mesh(write_mesh(tmp_path, ALONE))
    two = dataclasses.replace(
        mesh,
        topology=dataclasses.replace(mesh.topology, hosts=4),
        generate=mesh.generate.with_axes({"replica": 2, "tensor": 4}),
    )
    plan = plan_recipe(load_recipe(MINI, ["training.max_length=128"]), two)
    load, sample, guard, train = plan.stages
    for stage in (load, sample, guard):
        assert any("2 replica(s) do not divide over 4" in text for text in stage.problems)
    assert train.fits(two) and not plan.fits


def test_a_step_that_does_not_fit_is_told_settings_that_do(tmp_path):
    plan = mini_plan(tmp_path, overrides=["training.remat=none"])
    layer = mini_plan(tmp_path, overrides=["training.remat=layer"])
    between = (plan.stages[-1].peak + layer.stages[-1].peak) // 2
    assert layer.stages[-1].peak < between < plan.stages[-1].peak
    tight = dataclasses.replace(
        plan.mesh, topology=dataclasses.replace(plan.mesh.topology, hbm_bytes=between)
    )
    small = ["engine.slots=2", "training.micro_batch_size=8", "training.max_length=128"]
    found = plan_recipe(load_recipe(MINI, [*small, "training.remat=none"]), tight)
    train = found.stages[-1]
    assert not found.fits and not train.fits(tight)
    assert "training.remat=layer" in train.nearest
    assert "the nearest that fits: training." in recipe_plan_text(found)


@pytest.mark.parametrize(
    ("most", "nearest", "planned"),
    [
        (16, ["engine.slots=16"], [64, 4, 32, 16]),
        (4, ["engine.slots=4"], [64, 4, 32, 16, 8]),
        (2, [], [64, 4]),
    ],
)
def test_settings_near_a_recipe_are_compiled_only_where_one_can_fit(most, nearest, planned):
    """Each needs less than the one before: where the last does not fit, none does."""
    mesh, seen = load_mesh("cpu-8"), []

    def plan(request):
        seen.append(request.recipe.engine.slots)
        return StagePlan("sample", "", problems=[] if seen[-1] <= most else ["too large"])

    request = PlanRequest(load_recipe(MINI, ["engine.slots=64"]), mesh, 1, Assumed())
    stage = recipe_plan._searched(plan, request, recipe_plan._other_samplers)
    assert stage.nearest == nearest
    assert seen == planned


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        (["engine.max_length=null", "max_new_tokens=16384"], "max_new_tokens=724"),
        (["top_k=200000"], "top_k=0"),
    ],
)
def test_a_recipe_by_which_no_prompt_can_be_sampled_does_not_fit(tmp_path, options, nearest):
    """The context of mini:student is 1,024 tokens; no mesh makes it longer."""
    options = [o if o.startswith("engine") else f"synthesis.sampling.{o}" for o in options]
    plan = mini_plan(tmp_path, overrides=options)
    sample = plan.stages[1]
    assert not plan.fits and not sample.fits(plan.mesh)
    (problem,) = sample.problems
    assert problem.startswith("synthesis.sampling.") and "mini:student" in problem
    assert sample.nearest == [f"synthesis.sampling.{nearest}"]
    assert f"does not go: {problem}" in recipe_plan_text(plan)


def test_a_recipe_by_which_the_student_cannot_be_evaluated_does_not_fit(tmp_path):
    """The teacher's prompts fit; the student's do not, which a run would have said at its end."""
    options = ["synthesis.teacher.model=mini:student", "evaluation.sampling.max_new_tokens=16384"]
    plan = mini_plan(tmp_path, overrides=[*options, "engine.max_length=null"])
    (problem,) = plan.stages[1].problems
    assert not plan.fits and problem.startswith("evaluation.sampling.max_new_tokens: 16384")


def test_the_hours_of_a_loop_are_its_own_also_where_a_server_draws():
    """The sampler's are then those of another machine."""
    served = ["url=http://h:1/v1", "adapter_folder=/adapters"]
    served = ["training.ratio_cap=2", *(f"on_policy.server.{key}" for key in served)]
    loop = load_recipe(MINI.with_name("mini-grpo.yaml"), served)
    hours = {"load": 0.0, "sample": 5.0, "guard": 2.0, "train": 1.0, "loop": 3.0}
    stages = [StagePlan(name, "", hours=of) for name, of in hours.items()]
    assert recipe_plan._hours_of_stages(loop, stages) == 3.0
    assert recipe_plan._hours_of_stages(load_recipe(MINI), stages[:-1]) == 8.0
    fixed = load_recipe(MINI.with_name("mini-safepath.yaml"))
    assert recipe_plan._hours_of_stages(fixed, stages[:-1]) == 1.0


@pytest.mark.parametrize("temporaries", [10, 10**9])
def test_the_parts_of_a_steps_memory_add_up_to_what_the_compiler_says(temporaries):
    """Also where it needs less than logits and gradients would take beside each other."""
    mesh, cfg = load_mesh("cpu-8"), find_model("mini:student")[1]
    budget = phase_budget("train", mesh.train, cfg, mesh.topology, Settings("float32"))
    kept = sum(budget.bytes.values()) - budget.bytes["gradients"]
    compiled = Compiled("", kept + 7, temporaries, {}, 0.0, 0.0)
    parts = _peak_bytes(cfg, mesh.train.for_model(cfg), budget, compiled, 1024)
    assert sum(parts.values()) == compiled.peak and min(parts.values()) >= 0


def test_the_guards_of_a_majority_lie_on_the_devices_together(tmp_path):
    mesh = load_mesh(write_mesh(tmp_path, ALONE))
    recipe = load_recipe(MINI)
    request = PlanRequest(recipe, mesh, 8, Assumed())
    alone, beside = (plan_guard(recipe.guard, request, [recipe.guard] * n) for n in (0, 2))
    assert beside.bytes["other guards"] == 2 * alone.bytes["weights"]
    assert beside.peak == alone.peak + 2 * alone.bytes["weights"]


def test_more_sequences_a_pass_than_rows_a_step_is_a_warning(tmp_path):
    plan = mini_plan(tmp_path, overrides=["training.batch_size=1", "training.micro_batch_size=1"])
    assert re.search(r"a pass holds \d+ sequences, .* 1 rows", plan.stages[-1].warnings[-1])


def test_the_command_and_its_exit_codes(tmp_path, monkeypatch):
    mesh = write_mesh(tmp_path, ALONE)
    out = tmp_path / "plan.json"
    small = ["engine.slots=2", "training.max_length=128"]
    command = ["plan", f"--config={MINI}", f"--mesh={mesh}", f"--json={out}", "--params", *small]
    result = CliRunner().invoke(app, [*command, f"--hlo={tmp_path / 'hlo'}"])
    assert result.exit_code == 0, result.output
    assert f"HLO of 4 program(s) in {tmp_path / 'hlo'}" in result.output
    programs = ["guard-pass-mini-guard", *(f"{p}-mini-student" for p in SAMPLED_AND_TRAINED)]
    files = {path.name: path.read_text() for path in (tmp_path / "hlo").iterdir()}
    assert sorted(files) == [f"{program}-{mesh.stem}.hlo.txt" for program in programs]
    assert all(text.startswith("HloModule") for text in files.values())
    assert "layers.q_proj.kernel" in result.output
    assert json.loads(out.read_text())["fits"]
    model = shared_asset("configs", "Qwen3-32B.json")
    large = [f"student.model={model}", "student.dtype=bfloat16"]
    result = CliRunner().invoke(app, [*command, *large, "guard.kind=refusal-match"])
    assert result.exit_code == 2
    assert "the nearest that fits: generate.axes: replica 1, tensor 8" in result.output
    small_model = ["plan", "--model=mini:student"]
    uncompiled = [*small_model, f"--mesh={mesh}", "--hlo=hlo"]
    monkeypatch.setattr("thinksafe_jax.planning.this_machine.host_memory", lambda: 1_000)
    for wrong in (["plan"], ["plan", f"--config={MINI}"], small_model, uncompiled):
        error = CliRunner().invoke(app, wrong).exception
        assert isinstance(error, ConfigError)


def test_prompts_longer_than_the_context_are_refused_before_they_are_compiled(tmp_path):
    """A billion tokens were compiled, for minutes."""
    plan = mini_plan(tmp_path, assumed=Assumed(prompt_tokens=1024))
    assert not plan.fits
    (problem,) = plan.stages[1].problems
    assert problem.startswith("--prompt-tokens 1024: the context of mini:student is")
