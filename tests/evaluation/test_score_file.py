"""`thinksafe score`: ids, golds and finish reasons as other programs write them."""

import json

import pytest

from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import score_responses

CUT = [
    "length", "LENGTH", "max_tokens", "MAX_TOKENS", "FinishReason.Length", "max_new_tokens",
    {"type": "length", "length": 32768}, "model_length", "abort", "content_filter", "SAFETY",
]  # fmt: skip
COMPLETE = [
    "stop", "STOP", "eos_token", "end_turn", "stop_sequence", {"type": "stop", "matched": 151645},
    "FinishReason.STOP", None, "",
]  # fmt: skip


def score(folder, *rows: dict) -> dict:
    file = folder / "responses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return score_responses(file, "math500")


def row(answer: object = "2", response: str = r"\boxed{2}", **more) -> dict:
    return {"question": "1+1?", "answer": answer, "response": response} | more


@pytest.mark.parametrize("column", ["finish_reason", "stop_reason"])
@pytest.mark.parametrize(
    ("reason", "cut"), [(r, 1) for r in CUT] + [(r, 0) for r in COMPLETE], ids=repr
)
def test_a_cut_text_is_not_complete_whoever_cut_it(tmp_path, column, reason, cut):
    result = score(tmp_path, row(response="perhaps 2", **{column: reason}))
    assert result["truncated"] == cut
    assert result["rows"][0]["status"] == ("unparsed" if cut else "correct")


@pytest.mark.parametrize("reason", [1, "because", ["stop"], {"type": 3}, {}], ids=repr)
def test_an_unknown_finish_reason_is_refused_with_its_place(tmp_path, reason):
    with pytest.raises(InputError, match=r"responses\.jsonl:1: finish_reason .* is not known"):
        score(tmp_path, row(finish_reason=reason))


def test_rows_of_one_id_are_samples_of_one_problem(tmp_path):
    result = score(tmp_path, row(id="a"), row(id="a", response=r"\boxed{3}"))
    assert (result["questions"], result["accuracy"]["value"]) == (1, 0.5)


def test_rows_without_ids_are_problems_of_their_own(tmp_path):
    assert score(tmp_path, row(), row())["questions"] == 2


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"question": "algebra: x?"}, "has another question than at"),
        ({"answer": "3"}, "has another answer than at"),
        ({"question": "x?", "answer": "3"}, "has another question and answer than at"),
    ],
)
def test_one_id_for_two_problems_is_refused_with_both_places(tmp_path, second, said):
    """As where ids begin anew in each subtask: pooled, two problems would be one."""
    with pytest.raises(InputError, match=rf"jsonl:2: id '0' {said} .*jsonl:1"):
        score(tmp_path, row(id=0), row(id=0) | second)


@pytest.mark.parametrize("name", [None, "", " ", ["a"], {"a": 1}, float("nan")], ids=repr)
def test_ids_that_name_nothing_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"responses\.jsonl:1: .*id"):
        score(tmp_path, row(id=name))


def test_a_gold_answer_may_be_a_number(tmp_path):
    assert score(tmp_path, row(answer=2))["accuracy"]["value"] == 1.0
    for wrong in (["2"], {"value": 2}, float("nan")):
        with pytest.raises(InputError, match="the gold answer in column 'answer' is"):
            score(tmp_path, row(answer=wrong))


@pytest.mark.parametrize("missing", ["answer", "response"])
def test_a_row_without_gold_or_response_is_refused(tmp_path, missing):
    with pytest.raises(InputError, match=f"responses.jsonl:1: no {missing} in the row"):
        score(tmp_path, row() | {missing: None})


def test_half_a_surrogate_pair_is_refused(tmp_path):
    for damaged in ({"answer": "\ud83d"}, {"response": "\ud83d"}, {"question": "\ud83d"}):
        with pytest.raises(InputError, match=r"responses\.jsonl:1: half a surrogate pair"):
            score(tmp_path, row() | damaged)


def test_line_separators_inside_a_row_do_not_end_it(tmp_path):
    file = tmp_path / "responses.jsonl"
    text = "so\u2028\u2029\u0085\x0b\x0c\\boxed{2}"
    file.write_text(json.dumps(row(response=text), ensure_ascii=False) + "\n", encoding="utf-8")
    assert score_responses(file, "math500")["accuracy"]["value"] == 1.0


# R1-Distill by a server: the chat template opens the thought, so its tag is in no response
CLOSED, THOUGHT = "1+1.\n</think>\n\nIt is \\boxed{2}.", r"Maybe \boxed{2}? Let me check:"


@pytest.mark.parametrize("more", [{}, {"finish_reason": "length"}], ids=["unsaid", "length"])
def test_a_thought_that_the_template_opened_and_nothing_closed_is_no_answer(tmp_path, more):
    rows = [row(response=CLOSED), row(response=CLOSED), row(response=THOUGHT, **more)]
    result = score(tmp_path, *rows)
    assert [r["status"] for r in result["rows"]] == ["correct", "correct", "unparsed"]
    assert result["accuracy"]["value"] == pytest.approx(2 / 3)


def test_where_few_thoughts_end_only_what_was_cut_is_taken_for_one(tmp_path):
    """As of a model that answers without thoughts and once writes a stray tag."""
    cut = {"finish_reason": "length"}
    rows = [row(response=CLOSED), row(response=THOUGHT), row(response=THOUGHT, **cut)]
    assert [r["status"] for r in score(tmp_path, *rows)["rows"]] == [
        "correct", "correct", "unparsed",
    ]  # fmt: skip


def test_a_box_in_a_cut_answer_counts_where_no_thought_was_opened(tmp_path):
    result = score(tmp_path, row(), row(response=THOUGHT, finish_reason="length"))
    assert [r["status"] for r in result["rows"]] == ["correct", "correct"]
