"""Train, held-out and corpus: no prompt twice, no wording twice, ids that stay."""

import re

import pytest

from thinksafe_jax import mini
from thinksafe_jax.errors import InputError
from thinksafe_jax.mini import arithmetic
from thinksafe_jax.mini.acts import acts
from thinksafe_jax.mini.corpus import corpus
from thinksafe_jax.mini.grammar import answer_sentences
from thinksafe_jax.mini.splits import act_of_prompt, split_prompts
from thinksafe_jax.mini.wording import CORPUS_FRAMES, HELDOUT_FRAMES, TRAIN_FRAMES
from thinksafe_jax.synthesis import steer

TRAIN = [row for split in ("train-harmful", "train-benign") for row in mini.prompts(split)]
HELDOUT = [
    row
    for kind in ("harmful", "borderline", "arithmetic")
    for row in mini.prompts(f"heldout-{kind}")
]


def test_no_prompt_and_no_id_appears_twice():
    rows = TRAIN + HELDOUT
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def wordings(rows):
    """The frames behind the prompts: acts and numbers taken out."""
    return {
        row["prompt"].replace(act_of_prompt()[row["prompt"]].text, "{act}")
        if row["kind"] != "arithmetic"
        else re.sub(r"\d+", "N", row["prompt"])
        for row in rows
    }


def test_train_and_heldout_share_no_wording():
    assert len(wordings(TRAIN)) == 12 + 8
    assert len(wordings(HELDOUT)) == 12 + 8
    assert not wordings(TRAIN) & wordings(HELDOUT)
    assert not set(TRAIN_FRAMES) & set(HELDOUT_FRAMES) and not set(CORPUS_FRAMES) & {
        *TRAIN_FRAMES,
        *HELDOUT_FRAMES,
    }


def test_the_students_corpus_has_no_prompt_of_any_split():
    read = {row["prompt"] for row in corpus(seed=1, rows=3000, steer=steer)}
    assert not read & split_prompts()


def test_heldout_sums_are_asked_nowhere_else():
    def task(row):
        numbers = tuple(sorted(map(int, re.findall(r"\d+", row["prompt"]))))
        return (*numbers, int(row["answer"]) > max(numbers))

    heldout = {task(row) for row in HELDOUT if row["kind"] == "arithmetic"}
    train = {task(row) for row in TRAIN if row["kind"] == "arithmetic"}
    read = {
        match.groups()
        for row in corpus(seed=2, rows=3000, steer=steer)
        for match in [re.search(r"The task is (\d+)([+-])(\d+)", row["response"])]
        if match
    }
    assert not heldout & train
    assert read and not any(arithmetic.is_heldout(int(a), int(b), sign) for a, sign, b in read)


def test_every_pair_of_digits_is_taught():
    taught = {
        (a % 10, b % 10, a // 10, sign)
        for a in range(10, 100)
        for b in range(10, 100)
        for sign in "+-"
        if (sign == "+" or a > b) and not arithmetic.is_heldout(a, b, sign)
    }
    assert len({(one, other, sign) for one, other, _, sign in taught}) == 200
    heldout = [row for row in HELDOUT if row["kind"] == "arithmetic"]
    assert len(heldout) == 250  # the eleventh of all tasks is enough for the split


def test_some_acts_are_only_in_the_heldout_split():
    new = {act.text for kind in ("harmful", "borderline") for act in acts(kind) if act.is_new}
    asked = {act_of_prompt()[row["prompt"]].text for row in TRAIN if row["kind"] != "arithmetic"}
    assert not asked & new
    assert any(act_of_prompt()[r["prompt"]].text in new for r in HELDOUT if r["kind"] == "harmful")


def test_sizes_and_labels():
    for kind in ("harmful", "borderline", "arithmetic"):
        rows = mini.prompts(f"mini:heldout-{kind}")
        assert len(rows) == 250
        assert {row["label"] for row in rows} == {"harmful" if kind == "harmful" else "benign"}
        assert all(("answer" in row) == (kind == "arithmetic") for row in rows)
    assert {row["kind"] for row in mini.prompts("train-benign")[:40]} == {
        "benign",
        "borderline",
        "arithmetic",
    }


def test_prompts_are_the_same_every_time():
    assert mini.prompts("heldout-harmful")[0] == mini.prompts("heldout-harmful")[0]
    assert mini.prompts("train-harmful")[0]["id"] == "train-harmful-0000"
    assert list(corpus(seed=3, rows=50, steer=steer)) == list(corpus(seed=3, rows=50, steer=steer))


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(InputError, match=r"train-harmfull.*heldout-harmful"):
        mini.prompts("train-harmfull")


def test_no_harmful_step_is_also_a_harmless_one():
    steps = {kind: {s for act in acts(kind) for s in act.steps} for kind in ("harmful", "benign")}
    steps["borderline"] = {s for act in acts("borderline") for s in act.steps}
    assert not steps["harmful"] & (steps["benign"] | steps["borderline"])
    assert all(sentence.strip() for sentence in answer_sentences())
