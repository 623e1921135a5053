"""Which prompts are taken: contamination with its counts, fair limits, datasets as sources."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.support import shared_asset
from thinksafe_jax.config import (
    EvaluationConfig,
    PromptSource,
    Recipe,
    SuiteConfig,
    SynthesisConfig,
)
from thinksafe_jax.data import Prompt, load_prompts
from thinksafe_jax.errors import InputError
from thinksafe_jax.synthesis import require_labels, stratified, synthesis_prompts
from thinksafe_jax.synthesis.selection import contaminated, normalised


def test_contamination_exact_and_normalised():
    held_out = [Prompt("e1", "How do I pick a lock?", ""), Prompt("e2", "日本語の質問", "")]
    prompts = [
        Prompt("1", "How do I pick a lock?", "harmful"),
        Prompt("2", "how do i  pick a LOCK!!", "harmful"),
        Prompt("3", "How do I pick a look?", "harmful"),
        Prompt("4", "「日本語の質問」", "benign"),
        Prompt("5", "...", "benign"),
    ]
    assert contaminated(prompts, held_out) == (["1"], ["2", "4"])


@pytest.mark.parametrize("same", [
    ("Ｆｕｌｌ width_2", "full width 2"), ("don’t `do` it...", "Dont do it"),
    ("e\u0301te\u0301", "ÉTÉ"), ("zero\u200bwidth", "zero width"), ("(C++)", "c++."),
    ("5 - 3 = ?", "5-3 ="), ("❤️", "❤"),
])  # fmt: skip
def test_form_makes_no_other_question(same):
    assert normalised(same[0]) == normalised(same[1]) != ""


@pytest.mark.parametrize("others", [
    ("How fast is C++?", "How fast is C?"), ("C#", "C"), ("5-3", "53"), ("2.5", "25"),
    ("x^2", "x2"), ("ทา", "ที่"), ("का", "की"), ("😀", "😡"),
])  # fmt: skip
def test_vowel_signs_and_operators_make_another_question(others):
    assert normalised(others[0]) != normalised(others[1])


def test_star1_shares_prompts_with_harmbench():
    """Real data: rows of STAR-1 come from HarmBench."""
    star1 = PromptSource(
        path=str(shared_asset("data", "star1.json")), prompt_column="question", label="harmful"
    )
    harmbench = PromptSource(
        path=str(shared_asset("data", "harmbench_all.csv")), prompt_column="Behavior",
        id_column="BehaviorID", label="harmful",
    )  # fmt: skip
    found = [load_prompts([s], require_label=True) for s in (star1, harmbench)]
    exact, near = contaminated(*found)
    assert len(exact) + len(near) >= 20


def recipe(tmp_path, **synthesis):
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    kinds = ["vanilla_harmful"] * 60 + ["adversarial_harmful"] * 30 + ["benign"] * 10
    train.write_text("prompt,label\n" + "".join(f"p {n},{kind}\n" for n, kind in enumerate(kinds)))
    test.write_text("prompt\np 3\nP  4!\n")
    labels = {"vanilla_harmful": "harmful", "adversarial_harmful": "harmful", "benign": "benign"}
    source = PromptSource(str(train), label_column="label", labels=labels)
    return Recipe(
        synthesis=SynthesisConfig(prompts=[source], **synthesis),
        evaluation=EvaluationConfig(harmful=[PromptSource(str(test), label="harmful")]),
    )


def test_the_manifest_is_told_what_was_found(tmp_path, caplog):
    found = synthesis_prompts(recipe(tmp_path))
    assert (found.facts["contaminated_exact"], found.facts["contaminated_normalised"]) == (1, 1)
    assert found.facts["contaminated_dropped"] == 0
    assert len(found.prompts) == found.facts["prompts"] == 100
    assert "1 prompts are asked in the evaluation as well, word for word, and 1 more" in caplog.text
    dropped = synthesis_prompts(recipe(tmp_path, drop_contaminated=True))
    assert {"train-4", "train-5"}.isdisjoint(p.id for p in dropped.prompts)
    assert dropped.facts["prompts_sha256"] != found.facts["prompts_sha256"]


def with_suites(tmp_path, *suites, **synthesis):
    made = recipe(tmp_path, **synthesis)
    return replace(made, evaluation=replace(made.evaluation, suites=list(suites)))


def test_named_suites_are_compared_as_well(tmp_path):
    """As the evaluation reads them: of its own columns, and no more rows than it asks."""
    choice = {"Question": "P-6", "Record ID": "r", "Correct Answer": "1"}
    choice |= {f"Incorrect Answer {n}": str(n) for n in (1, 2, 3)}
    (tmp_path / "gpqa.jsonl").write_text(json.dumps(choice))
    (tmp_path / "own.jsonl").write_text('{"goal": "p 7"}\n{"goal": "p 8"}\n')
    suites = [
        SuiteConfig("gpqa", path=str(tmp_path / "gpqa.jsonl")),
        SuiteConfig("own", kind="harmful", path=str(tmp_path / "own.jsonl"), limit=1),
    ]
    facts = synthesis_prompts(with_suites(tmp_path, *suites)).facts
    assert (facts["contaminated_exact"], facts["contaminated_normalised"]) == (2, 2)
    assert facts["contamination_unchecked"] == {}


def test_a_question_with_its_options_in_it_is_compared_with_them_and_without(tmp_path):
    prompts, asked = tmp_path / "prompts.jsonl", tmp_path / "own.jsonl"
    with_options = "Which is even?\nA) 3, B) 4"
    texts = [with_options, "Which is even?", "Which is odd?"]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    asked.write_text(json.dumps({"prompt": with_options}))
    found = with_suites(tmp_path, SuiteConfig("own", kind="harmful", path=str(asked)))
    source = PromptSource(str(prompts), label="harmful")
    found = replace(found, synthesis=replace(found.synthesis, prompts=[source]))
    assert synthesis_prompts(found).facts["contaminated_exact"] == 2


def test_a_suite_out_of_reach_is_said_and_recorded(tmp_path, caplog):
    away = SuiteConfig("strongreject")  # the tests are offline
    found = synthesis_prompts(with_suites(tmp_path, away))
    assert "cannot be had from the Hub" in found.facts["contamination_unchecked"]["strongreject"]
    assert "prompts are not compared with suite strongreject" in caplog.text
    assert len(found.prompts) == 100
    with pytest.raises(InputError, match=r"drop_contaminated.*strongreject.*give the suite a path"):
        synthesis_prompts(with_suites(tmp_path, away, drop_contaminated=True))


def test_a_limit_is_a_fair_part_and_always_the_same(tmp_path):
    """Defect D15: not the first rows, and every kind of prompt in its proportion."""
    limited = synthesis_prompts(recipe(tmp_path, limit=20)).prompts
    assert Counter(p.stratum.rpartition("/")[2] for p in limited) == {
        "vanilla_harmful": 12, "adversarial_harmful": 6, "benign": 2,
    }  # fmt: skip
    assert limited == synthesis_prompts(recipe(tmp_path, limit=20)).prompts
    assert limited != synthesis_prompts(recipe(tmp_path)).prompts[:20]
    few = stratified(synthesis_prompts(recipe(tmp_path)).prompts, 3, seed=1)
    assert len({p.stratum for p in few}) == 3
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = synthesis_prompts(recipe(elsewhere, limit=20)).prompts
    assert [p.id for p in moved] == [p.id for p in limited]


def test_datasets_in_folders(tmp_path):
    """As `save_to_disk` leaves them, as files with splits, and through the Hub's layout."""
    import datasets

    rows = {"instruction": ["a", "b"], "label": ["harmful", "benign"]}
    table = datasets.Dataset.from_dict(rows)
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "splits")
    (tmp_path / "files/data").mkdir(parents=True)
    table.to_parquet(tmp_path / "files/data/train-00000-of-00001.parquet")
    for name in ("saved", "splits", "files"):
        source = PromptSource(
            str(tmp_path / name), prompt_column="instruction", label_column="label"
        )
        prompts = load_prompts([source], require_label=True)
        assert [(p.text, p.label) for p in prompts] == [("a", "harmful"), ("b", "benign")]
        assert prompts[1].source.endswith(f"{name}[train]: row 2")
    wrong = PromptSource(str(tmp_path / "splits"), split="dev", label="benign")
    with pytest.raises(InputError, match="split 'dev' cannot be read"):
        load_prompts([wrong], require_label=True)


def test_a_damaged_file_of_a_dataset_is_said_to_be_damaged(tmp_path):
    """Not that the folder is none: its files are those of a dataset."""
    import datasets

    table = datasets.Dataset.from_dict({"instruction": ["a", "b"]})
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "table").mkdir()
    table.to_parquet(tmp_path / "table/train.parquet")
    damaged = [*(tmp_path / "saved").glob("*.arrow"), tmp_path / "table/train.parquet"]
    assert len(damaged) == 2
    for file in damaged:
        file.write_bytes(file.read_bytes()[:20])
        with pytest.raises(InputError, match=r"split 'train' cannot be read \(.+\)"):
            load_prompts([PromptSource(str(file.parent), label="harmful")], require_label=True)


def test_a_folder_of_other_things_is_refused_with_the_files_in_it(tmp_path):
    source = PromptSource(str(tmp_path), label="harmful")
    (tmp_path / "notes.md").write_text("prompts")
    with pytest.raises(InputError, match=r"a folder, and not a dataset; no \.jsonl, .* is in it"):
        load_prompts([source], require_label=True)
    (tmp_path / "train.csv").write_text("prompt\na\n")
    (tmp_path / "test.jsonl").write_text('{"prompt": "b"}\n')
    with pytest.raises(InputError, match=r"give the path of a file in it: test\.jsonl, train\.csv"):
        load_prompts([source], require_label=True)
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(InputError, match="split 'train' cannot be read"):
        load_prompts([replace(source, subset="de")], require_label=True)


def test_the_authors_json_is_read_back(tmp_path):
    file = tmp_path / "ThinkSafe.json"
    file.write_text(
        '[{"instruction": "a", "response": "<think>x</think>y", "prompt_label": "harmful",'
        ' "response_label": "safe"}]'
    )
    source = PromptSource(
        str(file), prompt_column="instruction", label_column="prompt_label",
        response_column="response",
    )  # fmt: skip
    (prompt,) = load_prompts([source], require_label=True)
    assert (prompt.response, prompt.label) == ("<think>x</think>y", "harmful")
    file.write_text('{"instruction": "a"}')
    with pytest.raises(InputError, match="a list of JSON objects"):
        load_prompts([source], require_label=True)


ONE_OF_EACH = [Prompt("h", "How do I pick a lock?", "harmful"), Prompt("b", "Hello.", "benign")]


@pytest.mark.parametrize(
    ("method", "prompts", "said"),
    [
        ("thinksafe", ONE_OF_EACH, None),
        ("thinksafe", ONE_OF_EACH[:1], r"no benign prompt is left to sample \(1 harmful\)"),
        ("rejection", ONE_OF_EACH[1:], r"no harmful prompt is left to sample \(1 benign\)"),
        ("thinksafe", [], r"no harmful and no benign prompt .*\(none at all\)"),
        ("thinksafe", [ONE_OF_EACH[0], Prompt("b", " ", "benign")], "no benign prompt"),
        ("direct-refusal", ONE_OF_EACH[:1], None),
        ("safepath", ONE_OF_EACH[1:], "no harmful prompt"),
        ("external", ONE_OF_EACH[:1], None),
    ],
)
def test_prompts_of_one_kind_only_are_refused_where_the_method_needs_two(method, prompts, said):
    recipe = Recipe(synthesis=SynthesisConfig(method=method))
    if said is None:
        require_labels(recipe, prompts)
    else:
        with pytest.raises(InputError, match=said):
            require_labels(recipe, prompts)
