"""Refusals of benign prompts: counted by source, kept as in the paper, dropped or asked again."""

import json

import pytest

from thinksafe_jax.config import Recipe, SynthesisConfig
from thinksafe_jax.config.checks import section_problems
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.guards import Verdict
from thinksafe_jax.report import card_of_dataset
from thinksafe_jax.report.html_content import refusal_rows
from thinksafe_jax.report.run_files import RunFiles, read_refusals
from thinksafe_jax.report.summary import build_summary
from thinksafe_jax.storage import content_hash
from thinksafe_jax.synthesis import (
    Ledger,
    RefusalCounts,
    attempts,
    count_refusals,
    dataset_facts,
    refusal_warning,
    write_refusals,
)
from thinksafe_jax.synthesis.attempt_queue import AttemptQueue
from thinksafe_jax.synthesis.coverage import coverage
from thinksafe_jax.synthesis.ladder import chosen_attempts

ANSWER = "<think>\nEasy.\n</think>\n\nAt the shore."
REFUSAL = "<think>\nHm.\n</think>\n\nI'm sorry, but I can't help with that."


def note(ledger: Ledger, id: str, response: str, *, attempt=1, refusal=None, word="safe"):
    """A row of samples/ and its verdict; ids of harmful prompts begin with h."""
    label = "harmful" if id.startswith("h") else "benign"
    row = {"id": id, "attempt": attempt, "label": label, "response": response, "tokens": 5}
    ledger.sampled({**row, "finish_reason": "stop"})
    verdict = Verdict(id, word, None, "full", False, "g", refusal=refusal)
    ledger.judged(verdict.row(attempt))


def ledger_of(mode: str) -> Ledger:
    ledger = Ledger("think", benign_refusals=mode)
    note(ledger, "h1", REFUSAL)
    note(ledger, "b1", ANSWER)
    note(ledger, "b2", REFUSAL)
    note(ledger, "c1", REFUSAL)
    note(ledger, "c2", REFUSAL, word="unsafe")
    return ledger


SOURCES = {"b1": "gsm8k", "b2": "gsm8k", "c1": "xstest", "c2": "xstest"}


@pytest.mark.parametrize(
    "mode, kept, left_out", [("keep", ["b1", "b2", "c1"], 0), ("drop", ["b1"], 2)]
)
def test_what_is_kept_and_what_is_counted_by_source(mode, kept, left_out, tmp_path):
    ledger = ledger_of(mode)
    chosen = chosen_attempts(ledger, "thinksafe", 0)
    assert sorted(chosen) == [*kept, "h1"]  # a refusal of a harmful prompt is what is wanted
    counts = count_refusals(ledger, "thinksafe", 0, SOURCES)
    assert sum(count.left_out for count in counts.values()) == left_out
    if mode == "keep":
        assert counts == {"gsm8k": RefusalCounts(2, 1, 0), "xstest": RefusalCounts(1, 1, 0)}
    else:
        assert counts == {"gsm8k": RefusalCounts(1, 0, 1), "xstest": RefusalCounts(0, 0, 1)}
    dropped = coverage(ledger, chosen, ("harmful", "benign"))["benign"].dropped
    assert dropped == {"unsafe": 1} | ({"benign_refusal": 2} if mode == "drop" else {})
    write_refusals(tmp_path, counts)
    assert read_refusals(tmp_path) == counts
    assert sorted(ledger.refusals_among_safe()) == [[0.0], [1.0], [1.0]]  # whatever becomes of them


def test_the_guard_knows_better_than_phrases_where_it_says_whether_an_answer_refuses():
    ledger = Ledger("think", benign_refusals="drop")
    note(ledger, "b1", ANSWER, refusal=True)
    note(ledger, "b2", REFUSAL, refusal=False)
    assert list(chosen_attempts(ledger, "thinksafe", 0)) == ["b2"]


@pytest.mark.parametrize("mode, asked_again", [("keep", 0), ("drop", 0), ("retry", 1)])
def test_only_retry_asks_a_prompt_again_that_was_refused(mode, asked_again):
    """With the next rung of the ladder; the guard is asked as for every other attempt."""
    cfg = SynthesisConfig(attempts=3, benign_refusals=mode)
    ledger, made = Ledger("think", benign_refusals=mode), []

    def judge(rows):
        for id, number in rows:
            verdict = Verdict(id, "safe", None, "full", False, "g")
            ledger.judged(verdict.row(number))

    queue = AttemptQueue([Prompt("b", "Where?", "benign")], attempts(cfg), ledger, judge)
    for turn in queue:
        if turn is None:
            continue
        prompt, attempt = turn
        made.append(attempt.number)
        response = REFUSAL if attempt.number == 1 else ANSWER
        row = {"id": prompt.id, "attempt": attempt.number, "label": "benign", "tokens": 5}
        ledger.sampled({**row, "response": response, "finish_reason": "stop"})
        queue.note((prompt.id, attempt.number))
    assert made == [1, *([2] if asked_again else [])]


def test_settings_that_cannot_ask_again_are_refused_and_the_default_changes_no_hash():
    for changes in ({"attempts": 1}, {"attempts": 2, "method": "rejection"}):
        recipe = Recipe(synthesis=SynthesisConfig(benign_refusals="retry", **changes))
        assert any("benign_refusals: retry needs" in text for text in section_problems(recipe))
    assert not section_problems(Recipe(synthesis=SynthesisConfig(benign_refusals="drop")))
    hashes = {content_hash(SynthesisConfig(benign_refusals=mode)) for mode in ("keep", "drop")}
    assert len(hashes) == 2


def test_many_refusals_are_said_before_training_and_in_report_and_card(tmp_path):
    counts = {"gsm8k": RefusalCounts(100, 0), "xstest": RefusalCounts(20, 6, 2)}
    assert refusal_warning(counts) == ""  # 6 of 120 are a twentieth
    counts["xstest"] = RefusalCounts(20, 7, 2)
    warning = refusal_warning(counts)
    assert warning.startswith("7 of 120 benign rows refuse (5.8%: xstest 7 of 20).")
    run = RunFiles(tmp_path, refusals=counts)
    assert [note["kind"] for note in build_summary(run)["notes"]] == ["benign-refusals"]
    assert refusal_rows(run)[1] == {
        "source": "xstest", "rows": "20", "refusals": "7", "share": "35.0 %", "left_out": "2",
    }  # fmt: skip
    facts = dataset_facts(Recipe(name="r"), sources={})
    card = card_of_dataset(facts, {}, {}, counts)
    assert "| xstest | 20 | 7 | 35.0% | 2 |" in card and "They are kept, as in the paper" in card
    assert "Refusals among" not in card_of_dataset(facts, {}, {})


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/refusals.json").write_text(json.dumps({"a": {"rows": "two"}}))
    with pytest.raises(InputError, match=r"refusals\.json"):
        read_refusals(tmp_path)
