"""The model card: base model, recipe, dataset hash, evaluation table; names stay names."""

import hashlib
import json
import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from tests.report.example_run import recipe as example_recipe
from tests.report.example_run import write_evaluation, write_run
from thinksafe_jax.config import (
    EngineConfig,
    ModelSource,
    OnPolicyConfig,
    Recipe,
    SynthesisConfig,
    TrainingConfig,
)
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation.scoring import summarise
from thinksafe_jax.report import card_of_run
from thinksafe_jax.report.model_card import CardFacts, model_card

pytestmark = pytest.mark.slow

RATE = {"value": 0.25, "low": 0.125, "high": 0.375, "n": 40}


@pytest.fixture
def run(tmp_path):
    """(run directory with a data set, recipe, Hub snapshot of the base)."""
    (tmp_path / "run" / "dataset").mkdir(parents=True)
    (tmp_path / "run" / "dataset" / "train.jsonl").write_text('{"id": "1"}\n')
    recipe = Recipe(name="small", student=ModelSource(model="owner/base"))
    snapshot = tmp_path / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    return tmp_path / "run", recipe, snapshot


def test_adapter_card(run):
    path, recipe, base = run
    card = ModelCard(card_of_run(path, recipe, base, "adapter"))
    assert card.data.base_model == "owner/base"
    assert card.data.library_name == "peft"
    assert "lora" in card.data.tags
    assert hashlib.sha256(b'{"id": "1"}\n').hexdigest() in card.text
    assert "a" * 40 in card.text
    assert r"r 32, alpha 16, dropout 0.05, on q\_proj, v\_proj" in card.text
    assert "Not measured yet" in card.text
    assert "on responses that it wrote itself and a guard accepted" in card.text


@pytest.mark.parametrize(
    ("synthesis", "origin"),
    [
        (SynthesisConfig(teacher=ModelSource(model="o/t")), "responses that another model wrote"),
        (SynthesisConfig(method="direct-refusal"), "one fixed refusal"),
        (SynthesisConfig(method="external"), "responses that others wrote"),
    ],
)
def test_a_card_says_who_wrote_what_was_trained_on(run, synthesis, origin):
    path, recipe, base = run
    text = card_of_run(path, replace(recipe, synthesis=synthesis), base, "adapter")
    assert f"on {origin}" in text and "wrote itself" not in text


def test_a_card_says_that_keys_and_values_were_rounded(run):
    path, recipe, base = run
    assert "keys and values" not in card_of_run(path, recipe, base, "adapter")
    rounded = replace(recipe, engine=EngineConfig(kv_dtype="int8"))
    card = card_of_run(path, rounded, base, "adapter")
    assert "| keys and values while sampling | int8, rounded: responses are not drawn" in card


def test_merged_card_with_an_evaluation(run):
    path, recipe, base = run
    (path / "evaluation").mkdir()
    for step, value in (("before", 0.25), ("after", 0.05)):
        rates = {"harmful_response_rate": {**RATE, "value": value}}
        measured = json.dumps(summarise([]) | rates | {"settings": {}})
        (path / "evaluation" / f"{step}.json").write_text(measured)
    card = ModelCard(card_of_run(path, recipe, base, "merged"))
    assert card.data.library_name == "transformers"
    assert (
        "| harmful responses, lower is better | 25.0% (12.5% to 37.5%, n = 40) "
        "| 5.0% (12.5% to 37.5%, n = 40) |" in card.text
    )
    assert "reasoning accuracy" not in card.text


def test_a_card_says_how_the_adapter_is_used(run):
    path, recipe, base = run
    text = card_of_run(path, recipe, base, "adapter")
    commit = "a" * 40
    assert f'AutoModelForCausalLM.from_pretrained("owner/base", revision="{commit}"' in text
    assert f"vllm serve owner/base --revision {commit} --enable-lora --max-lora-rank 32" in text
    assert "chat template, with its reasoning" in text
    wide = replace(recipe, training=TrainingConfig(lora_r=48))
    assert "--max-lora-rank 64" in card_of_run(path, wide, base, "adapter")
    merged = card_of_run(path, recipe, base, "merged")
    assert "vllm serve path/to/this/folder\n" in merged and "peft" not in merged.lower()
    for name in ("mini:student", "gs://bucket/base"):  # transformers and vLLM load neither
        local = replace(recipe, student=ModelSource(model=name))
        assert "vllm" not in card_of_run(path, local, base.parent, "adapter")


def test_a_card_claims_nothing_before_it_was_measured(run):
    path, recipe, base = run
    text = card_of_run(path, recipe, base, "adapter")
    assert "without losing" not in text and "refuse harmful" not in text
    loop = replace(recipe, on_policy=OnPolicyConfig(method="grpo"))
    text = card_of_run(path, loop, base, "adapter")
    assert "what it answered while it was trained" in text and "| on-policy method | grpo |" in text
    assert "accepted" not in text


def test_a_card_states_no_setting_that_the_run_did_not_read(run):
    """An on-policy run steers no prompt and ends at its own steps; fixed responses ask no guard."""
    path, recipe, base = run
    recipe = replace(recipe, training=TrainingConfig(lora_rslora=True))

    def card(**sections):
        return card_of_run(path, replace(recipe, **sections), base, "adapter")

    assert "| steering of harmful prompts | authors |" in card() and "| guard |" in card()
    assert "| training | 3 epochs, batch 8" in card() and "alpha 16 (rank-stabilised)" in card()
    grpo = card(on_policy=OnPolicyConfig(method="grpo", steps=50))
    assert "steering" not in grpo and "| guard |" in grpo and "| training | 50 steps, batch" in grpo
    assert "| guard |" not in card(on_policy=OnPolicyConfig(method="opd"))
    fixed = card(synthesis=SynthesisConfig(method="direct-refusal"))
    assert "steering" not in fixed and "| guard |" not in fixed


def test_a_rate_of_few_readable_rows_is_no_result_of_a_card(tmp_path):
    path = write_run(tmp_path / "run", rows=40)
    assert "harmful_response_rate" in card_of_run(path, example_recipe(), tmp_path, "adapter")
    rows = [json.loads(x) for x in (path / "evaluation/after/rows.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        if row["kind"] == "harmful" and number % 5:
            row["verdict"] = "unparsed"
    write_evaluation(path, "after", rows)
    text = card_of_run(path, example_recipe(), tmp_path, "adapter")
    assert "harmful_response_rate" not in text and "over_refusal_rate" in text
    assert re.search(r"\| no result: \S+% to \S+%, too few of 40 rows can be read \|", text)
    assert "| responses that can be read, higher is better | 100.0% (" in text


def test_names_are_escaped(run):
    path, _, base = run
    training = TrainingConfig(full_finetune=True)
    student = ModelSource(model="x|<script>alert(1)</script>\n---")
    recipe = Recipe(name="# [a](b)", student=student, training=training)
    text = card_of_run(path, recipe, base.parent, "merged")
    assert "<script>" not in text.partition("\n---\n")[2]
    assert "none: all weights were trained" in text
    assert "not a Hub commit" in text
    assert ModelCard(text).data.base_model is None


def test_damaged_evaluation(run):
    path, recipe, base = run
    (path / "evaluation").mkdir()
    (path / "evaluation" / "before.json").write_text("{")
    with pytest.raises(InputError, match=r"before\.json: not readable as JSON"):
        card_of_run(path, recipe, base, "adapter")


def test_the_rates_after_training_are_machine_readable():
    from huggingface_hub import ModelCard

    rate = {"value": 0.031, "low": 0.01, "high": 0.06, "n": 250}
    evaluation = {"after": {"harmful_response_rate": rate}}
    facts = CardFacts("run", "mini:student", None, "adapter", "thinksafe", {}, None, evaluation)
    (found,) = ModelCard(model_card(facts)).data.eval_results
    assert (found.metric_type, found.metric_value) == ("harmful_response_rate", 0.031)


def test_named_suites_are_machine_readable_with_the_commit_of_their_dataset():
    facts = {"metric": "attack success", "lower_is_better": True, "rate": RATE}
    own = {"harmful": {**facts, "metric": "of the recipe's list: in the rates"}}
    suites = {"strongreject": facts, "mine": {**facts, "metric": "pass@1"}, **own}
    sources = {"strongreject": {"name": "walledai/StrongREJECT", "revision": "c" * 40}}
    after = {"suites": suites, "settings": {"sources": sources}}
    before = {"suites": {"strongreject": {**facts, "rate": {**RATE, "value": 0.5}}}}
    evaluation = {"before": before, "after": after}
    facts = CardFacts("run", "mini:student", None, "adapter", "thinksafe", {}, None, evaluation)
    card = ModelCard(model_card(facts))
    hub, mine = card.data.eval_results
    assert (hub.dataset_type, hub.dataset_revision) == ("walledai/StrongREJECT", "c" * 40)
    assert (hub.metric_type, hub.metric_value) == ("attack_success", 0.25)
    assert (mine.dataset_type, mine.dataset_name, mine.metric_type) == ("custom", "mine", "pass@1")
    row = "| strongreject: attack success, lower is better | 50.0% (12.5% to 37.5%, n = 40) | 25.0%"
    assert row in card.text


def test_no_result_stands_under_the_name_of_another_dataset():
    """The Hub's library groups results of equal type, configuration, split and commit."""
    facts = {"metric": "attack success", "lower_is_better": True, "rate": RATE}
    suites = dict.fromkeys(("one", "two", "xstest-safe", "xstest-unsafe"), facts)
    of_hub = {"name": "walledai/XSTest", "revision": "c" * 40}
    sources = {"xstest-safe": of_hub, "xstest-unsafe": of_hub}
    after = {"harmful_response_rate": RATE, "suites": suites, "settings": {"sources": sources}}
    evaluation = {"after": after}
    facts = CardFacts("run", "mini:student", None, "adapter", "thinksafe", {}, None, evaluation)
    ((index,),) = [ModelCard(model_card(facts)).data.to_dict()["model-index"]]
    metrics = {
        result["dataset"]["name"]: [metric["name"] for metric in result["metrics"]]
        for result in index["results"]
    }
    ending = "attack success, lower is better"
    assert metrics == {
        "the run's held-out prompts": ["harmful responses, lower is better"],
        "one": [f"one: {ending}"],
        "two": [f"two: {ending}"],
        "walledai/XSTest": [f"xstest-safe: {ending}", f"xstest-unsafe: {ending}"],
    }
