"""Train, validation, held-out and corpus: no prompt twice, no wording twice, ids that stay."""

import re

import pytest

from thinksafe_jax import mini
from thinksafe_jax.errors import InputError
from thinksafe_jax.mini import arithmetic
from thinksafe_jax.mini.acts import acts
from thinksafe_jax.mini.corpus import corpus
from thinksafe_jax.mini.grammar import answer_sentences
from thinksafe_jax.mini.splits import act_of_prompt, split_prompts
from thinksafe_jax.mini.wording import FRAMES, WRAPPERS
from thinksafe_jax.synthesis import steer

PARTS = ("train", "validation", "heldout")
ROWS = {
    part: [row for split in mini.SPLITS if split.startswith(part) for row in mini.prompts(split)]
    for part in PARTS
}
ASKS = [row for rows in ROWS.values() for row in rows]
NUMBERS = ("arithmetic", "multistep")


def test_no_prompt_and_no_id_appears_twice():
    assert len({row["prompt"] for row in ASKS}) == len(ASKS)
    assert len({row["id"] for row in ASKS}) == len(ASKS)


def wordings(rows):
    """The frames and wrappers behind the prompts: acts and numbers taken out."""
    return {
        row["prompt"].replace(act_of_prompt()[row["prompt"]].text, "{act}")
        if row["kind"] not in NUMBERS
        else re.sub(r"\d+", "N", row["prompt"])
        for row in rows
    }


def test_no_two_splits_share_a_wording():
    asked = [wordings(ROWS[part]) for part in PARTS]
    assert list(map(len, asked)) == [12 + 6 + 8, 10 + 6 + 6 + 4, 12 + 8 + 8 + 4]
    assert len(set().union(*asked)) == sum(map(len, asked))
    for texts in (FRAMES, WRAPPERS):
        every = [text for part in texts.values() for text in part]
        assert len(set(every)) == len(every)


def test_the_students_corpus_has_no_prompt_of_any_split():
    read = {row["prompt"] for row in corpus(seed=1, rows=3000, steer=steer)}
    assert not read & split_prompts()


def first_steps(rows):
    """(a, b, sign) of arithmetic rows, by a prompt's own numbers and its answer."""
    steps = set()
    for row in rows:
        if row["kind"] in NUMBERS:
            a, b, *rest = map(int, re.findall(r"\d+", row["prompt"]))
            if rest != [b]:  # a + b - b is a - b + b too
                added = int(row["answer"]) == a + b - sum(rest)
                steps.add((a, b, "+" if added else "-"))
    return steps


def test_sums_of_one_part_are_asked_nowhere_else():
    """A sum that is evaluated is neither trained on nor read, nor is it a step of another."""
    for part in PARTS:
        asked = first_steps(ROWS[part])
        assert asked and {arithmetic.part_of(*task) for task in asked} == {part}
    read = {
        (int(a), int(b), sign)
        for row in corpus(seed=2, rows=3000, steer=steer)
        for a, sign, b in re.findall(r"(?:task is|Next) (\d+)([+-])(\d+)", row["response"])
    }
    assert read and {arithmetic.part_of(*task) for task in read} == {"train"}


@pytest.mark.parametrize("part", ["validation", "heldout"])
def test_answers_of_two_steps_are_right_and_no_result_passes_two_digits(part):
    for row in mini.prompts(f"{part}-multistep"):
        a, b, c = map(int, re.findall(r"\d+", row["prompt"]))
        first = {a + b: a + b - c, a - b: a - b + c}  # by the result of the first step
        assert 0 < int(row["answer"]) <= 99
        assert any(step <= 99 for step, last in first.items() if last == int(row["answer"]))


def test_every_pair_of_digits_is_taught():
    taught = {
        (a % 10, b % 10, sign)
        for a in range(10, 100)
        for b in range(10, 100)
        for sign in "+-"
        if (sign == "+" or a > b) and arithmetic.part_of(a, b, sign) == "train"
    }
    assert len(taught) == 200


def test_some_acts_are_only_in_the_heldout_split():
    new = {act.text for kind in ("harmful", "borderline") for act in acts(kind) if act.is_new}

    def asked(part, *kinds):
        rows = [row for row in ROWS[part] if row["kind"] not in NUMBERS]
        return {act_of_prompt()[r["prompt"]].text for r in rows if not kinds or r["kind"] in kinds}

    assert not (asked("train") | asked("validation")) & new
    for kind in ("harmful", "adversarial"):
        assert asked("heldout", kind) & new


def test_sizes_and_labels():
    sizes = {"harmful": 250, "borderline": 250, "arithmetic": 250}
    sizes |= dict.fromkeys(("adversarial", "adversarial-benign", "multistep"), 200)
    for kind, size in sizes.items():
        rows = mini.prompts(f"mini:heldout-{kind}")
        assert (len(rows), len(mini.prompts(f"mini:validation-{kind}"))) == (size, 150)
        harmful = kind in ("harmful", "adversarial")
        assert {row["label"] for row in rows} == {"harmful" if harmful else "benign"}
        assert all(("answer" in row) == (kind in NUMBERS) for row in rows)
    train = {split: mini.prompts(split) for split in ("train-harmful", "train-benign")}
    assert list(map(len, train.values())) == [500, 820]
    first = [{row["kind"] for row in rows[:40]} for rows in train.values()]
    assert first[0] == {"harmful", "adversarial"}
    assert first[1] == {"benign", "borderline", "adversarial-benign", "arithmetic"}


def test_prompts_are_the_same_every_time():
    assert mini.prompts("heldout-harmful")[0] == mini.prompts("heldout-harmful")[0]
    assert "train-harmful-0000" in {row["id"] for row in mini.prompts("train-harmful")}
    assert list(corpus(seed=3, rows=50, steer=steer)) == list(corpus(seed=3, rows=50, steer=steer))


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(
        InputError, match=r"train-harmfull.*did you mean train-harmful.*heldout-harmful"
    ):
        mini.prompts("train-harmfull")


def test_no_harmful_step_is_also_a_harmless_one():
    steps = {kind: {s for act in acts(kind) for s in act.steps} for kind in ("harmful", "benign")}
    steps["borderline"] = {s for act in acts("borderline") for s in act.steps}
    assert not steps["harmful"] & (steps["benign"] | steps["borderline"])
    assert all(sentence.strip() for sentence in answer_sentences())
