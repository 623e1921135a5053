"""summary.json: its names are a contract, and its notes say what a reader must know."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.example_run import recipe, write_evaluation, write_run
from thinksafe_jax.config import GuardConfig, GuardModel, as_trial, to_yaml
from thinksafe_jax.report import card_of_dataset, card_of_run, write_report
from thinksafe_jax.report.run_files import RunFiles
from thinksafe_jax.report.summary import build_summary
from thinksafe_jax.synthesis import dataset_facts

pytestmark = pytest.mark.slow

RATES = ("harmful_response_rate", "over_refusal_rate", "reasoning_accuracy")


def summary(path) -> dict:
    write_report(path)
    return json.loads((path / "report/summary.json").read_text(encoding="utf-8"))


def notes(path) -> set[str]:
    return {note["kind"] for note in summary(path)["notes"]}


def configure(path, **changes) -> None:
    """Rewrite the run's config with other fields of its guard, evaluation or synthesis."""
    old = recipe()
    parts = {room: replace(getattr(old, room), **values) for room, values in changes.items()}
    (path / "config.yaml").write_text(to_yaml(replace(old, **parts)), encoding="utf-8")


@pytest.fixture
def path(tmp_path):
    return write_run(tmp_path / "run", rows=40)


def test_a_trial_says_so_first_in_report_and_cards(path):
    assert summary(path)["trial"] is False and "trial" not in notes(path)
    trial = as_trial(recipe(), 7)
    (path / "config.yaml").write_text(to_yaml(trial), encoding="utf-8")
    content = summary(path)
    assert content["trial"] is True and content["notes"][0]["kind"] == "trial"
    assert "at most 7 prompts and 7 questions of each suite" in content["notes"][0]["text"]
    assert "ThinkSafe run · trial" in (path / "report/report.html").read_text(encoding="utf-8")
    assert "**A trial.**" in card_of_run(path, trial, path, "adapter")
    assert "**A trial.**" not in card_of_run(path, recipe(), path, "adapter")
    assert "**A trial.**" in card_of_dataset(dataset_facts(trial), {}, {})
    assert "**A trial.**" not in card_of_dataset(dataset_facts(recipe()), {}, {})


def test_schema(path):
    content = summary(path)
    assert content["schema_version"] == 1
    for step in ("before", "after"):
        for name in RATES:
            rate = content[step][name]
            assert set(rate) == {"value", "low", "high", "n"}
            assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
            assert rate["n"] == 40
        assert set(content[step]["unparsed"]) == {"harmful", "over_refusal", "reasoning"}
    assert set(content["change"]) == set(RATES)
    for count in content["dataset"].values():
        assert count["sampled"] == count["accepted"] + sum(count["dropped"].values())
    assert set(content["dataset"]) == {"harmful", "benign"}
    assert content["training"]["steps"] == 140
    assert {d["key"] for d in content["paper_differences"]} >= {"training.learning_rate"}


def test_before_evaluation_the_rates_are_null(tmp_path):
    content = summary(write_run(tmp_path / "run", rows=4, evaluated=False))
    assert (content["before"], content["after"], content["change"]) == (None, None, None)


def test_change_is_after_minus_before(path):
    content = summary(path)
    before, after = (
        content[step]["harmful_response_rate"]["value"] for step in ("before", "after")
    )
    change = content["change"]["harmful_response_rate"]
    assert change["value"] == pytest.approx(after - before)
    assert change["low"] < change["value"] < change["high"]


def test_a_suite_nobody_could_judge_has_no_change(path):
    write_evaluation(path, "after", [])
    content = summary(path)
    assert content["after"]["harmful_response_rate"]["value"] is None
    assert content["change"]["harmful_response_rate"]["value"] is None


def test_mini_is_labelled_as_a_toy(path):
    assert "mini-world" in notes(path)


def test_a_weak_guard_is_labelled(path):
    configure(path, guard={"kind": "refusal-match", "model": ""})
    content = summary(path)
    assert content["guard"]["weak"] is True
    assert "weak-guard" in notes(path)
    assert "The guard is weak" in (path / "report/report.html").read_text(encoding="utf-8")


def test_a_judge_that_was_the_filter_is_labelled(path):
    assert "same-judge" not in notes(path)
    configure(path, evaluation={"judge": "guard"})
    assert "same-judge" in notes(path)
    configure(path, evaluation={"judge": "guard"}, synthesis={"method": "direct-refusal"})
    assert "same-judge" not in notes(path)  # nothing was filtered by it


def test_filter_and_judge_have_their_own_names(path):
    """In the evaluation's settings stands who judged there, which need not have filtered."""
    configure(path, evaluation={"judge": "guard"}, judge={"kind": "refusal-match"})
    for step in ("before", "after"):
        file = path / f"evaluation/{step}.json"
        found = json.loads(file.read_text())
        found["settings"]["guard"] = {"name": "refusal-match", "weak": True}
        file.write_text(json.dumps(found))
    content = summary(path)
    assert (content["guard"]["name"], content["guard"]["weak"]) == ("mini:guard", False)
    assert (content["judge"]["name"], content["judge"]["weak"]) == ("refusal-match", True)
    assert "weak-guard" in notes(path) and "same-judge" not in notes(path)
    text = (path / "report/report.html").read_text(encoding="utf-8")
    assert "guard <b>mini:guard</b>" in text and "judge <b>refusal-match (weak)</b>" in text


FILTER = GuardConfig("llama-guard", "mini:guard", dtype="float32")  # of the example run
PHRASES = GuardModel("refusal-match")


@pytest.mark.parametrize(
    ("judge", "same"),
    [
        (replace(FILTER, max_length=512, batch_tokens=4096, dtype="bfloat16"), True),
        (replace(FILTER, url="http://localhost:8000/v1"), True),
        (GuardConfig("majority", members=[PHRASES, GuardModel(model="mini:guard")]), True),
        (GuardConfig("majority", members=[PHRASES, GuardModel(model="other/guard")]), False),
        (GuardConfig("llama-guard", url="http://localhost:8000/v1", served_name="g"), False),
    ],
)
def test_the_judge_is_known_by_its_checkpoint_not_by_its_settings(judge, same):
    """Defect D7, and a member of a majority counts as well."""
    evaluation = replace(recipe().evaluation, judge="guard")
    run = RunFiles(Path("run"), replace(recipe(), judge=judge, evaluation=evaluation))
    found = build_summary(run)
    assert found["judge"]["same_as_filter"] == same
    assert ("same-judge" in {note["kind"] for note in found["notes"]}) == same


def test_few_prompts_and_different_prompts_are_said(path):
    assert "few-prompts" in notes(path)
    file = path / "evaluation/after.json"
    after = json.loads(file.read_text())
    after["settings"]["prompts_sha256"] = "00" * 32
    file.write_text(json.dumps(after))
    assert "prompts-differ" in notes(path)


def test_unparsed_rows_are_said(path):
    file = path / "evaluation/after/rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["verdict"] = "unparsed"
    write_evaluation(path, "after", rows)
    text = next(n["text"] for n in summary(path)["notes"] if n["kind"] == "unparsed")
    assert "after: 1 harmful" in text
    bounds = summary(path)["after"]["bounds"]["harmful_response_rate"]
    page = (path / "report/report.html").read_text(encoding="utf-8")
    assert f"unparsed: {100 * bounds['low']:.1f} to {100 * bounds['high']:.1f}" in page
    assert "40 / 39" in page  # judged before and after


def scored_rows(path: Path, step: str = "after") -> list[dict]:
    text = (path / f"evaluation/{step}/rows.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_samples_of_a_prompt_are_no_more_prompts(path):
    for step in ("before", "after"):
        rows = scored_rows(path, step)
        samples = [8 if row["kind"] == "reasoning" else 1 for row in rows]
        drawn = zip(rows, samples, strict=True)
        write_evaluation(path, step, [r | {"sample": k} for r, n in drawn for k in range(n)])
    text = next(n["text"] for n in summary(path)["notes"] if n["kind"] == "few-prompts")
    assert text.endswith("harmful response rate, over refusal rate, reasoning accuracy.")
    assert "120 prompts" in (path / "report/report.html").read_text(encoding="utf-8")


def test_what_was_not_asked_and_what_the_judge_saw_in_part_is_said(path):
    rows = scored_rows(path)
    for row in rows:
        row["guard_truncated"] = row["id"] in ("harmful-0001", "harmful-0002")
    write_evaluation(path, "after", rows)
    assert not {"skipped", "guard-cut"} & notes(path)  # the exact judge has seen all
    write_evaluation(
        path, "after", [{k: row[k] for k in row if k != "guard_verdict"} for row in rows]
    )
    file = path / "evaluation/after.json"
    after = json.loads(file.read_text())
    after["skipped"]["reasoning"] = {"too_long": 3}
    file.write_text(json.dumps(after))
    said = {note["kind"]: note["text"] for note in summary(path)["notes"]}
    assert said["skipped"].endswith("in no rate, after: 3 reasoning (too long).")
    assert said["guard-cut"].endswith("saw their end alone, after: 2.")
