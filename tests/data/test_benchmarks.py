"""Named suites: files as published, options shuffled by id, clusters, and what is refused."""

import csv
import json
import re
from pathlib import Path

import pytest

import thinksafe_jax
from tests.support import shared_asset
from thinksafe_jax.config import EvaluationConfig, SuiteConfig
from thinksafe_jax.data import BENCHMARKS, GROUPS, load_questions
from thinksafe_jax.data.questions import with_options
from thinksafe_jax.errors import ConfigError, EnvironmentFault, InputError
from thinksafe_jax.evaluation import preset
from thinksafe_jax.pipeline import parse_suites


def questions(*suites: SuiteConfig):
    return load_questions(EvaluationConfig(suites=list(suites))).items


@pytest.mark.parametrize(
    ("suite", "count", "kind"),
    [
        ("gsm8k", 1319, "reasoning"),
        ("math500", 500, "reasoning"),
        ("aime24", 30, "reasoning"),
        ("strongreject", 313, "harmful"),
        ("harmbench", 200, "harmful"),
        ("xstest-safe", 250, "over_refusal"),
        ("xstest-unsafe", 200, "compliance"),
    ],
)
def test_published_files_are_read_as_they_are(suite, count, kind):
    (config,) = parse_suites([suite], shared_asset("data"))
    found = questions(config)
    assert (len(found), {q.kind for q in found}) == (count, {kind})
    assert all((q.answer is not None) == (kind == "reasoning") for q in found)
    assert all(q.prompt in q.text for q in found)


def test_a_benchmark_is_one_file_and_its_name_stands_nowhere_else():
    files = Path(thinksafe_jax.__file__).parent.rglob("*.py")
    text = "".join(file.read_text() for file in files if file.parent.name != "benchmarks")
    styles = {"gsm8k"}  # the name of a way to read answers, too
    assert {name for name in BENCHMARKS if f'"{name}"' in text} <= styles
    assert set().union(*GROUPS.values()) <= set(BENCHMARKS)


def test_the_authors_harmbench_file_is_clustered_by_objective(tmp_path):
    rows = [{"objective": f"o{n // 2}", "prompt": f"p{n} </s> <|x"} for n in range(6)]
    (tmp_path / "harmbench.json").write_text(json.dumps(rows))
    (config,) = parse_suites(["harmbench-602"], tmp_path)
    found = questions(config)
    assert [q.cluster for q in found] == ["o0", "o0", "o1", "o1", "o2", "o2"]
    assert found[0].prompt == "p0 </s> <|x"


def test_gpqa_options_are_shuffled_by_the_rows_id_alone(tmp_path):
    options = ["Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))]
    rows = [
        {"Record ID": f"rec{n}", "Question": f"Q{n}?"} | {o: f"{o} {n}" for o in options}
        for n in range(40)
    ]
    for name, listed in (("a.csv", rows), ("b.csv", rows[::-1][:7])):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(listed)
    whole = {q.id: q for q in questions(SuiteConfig("gpqa", path=str(tmp_path / "a.csv")))}
    part = questions(SuiteConfig("gpqa", path=str(tmp_path / "b.csv")))
    assert all(
        whole[q.id] == q for q in (q.__class__(**{**q.__dict__, "source": "a.csv"}) for q in part)
    )
    assert {q.answer for q in whole.values()} == set("ABCD")
    for q in whole.values():
        assert f"{q.answer}) Correct Answer" in q.text


def test_the_letter_is_that_of_the_right_option_even_among_equal_texts():
    prompt, letter = with_options("r", "Q?", ["same", "same", "other", "more"])
    assert f"{letter}) same" in prompt


def test_a_file_of_ones_own_needs_a_kind(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "1+{1}?", "answer": "2"}\n')
    (config,) = parse_suites([f"reasoning:mine={file}"], None)
    (found,) = questions(config)
    assert (found.suite, found.text, found.answer, found.kind) == (
        "mine",
        "1+{1}?",
        "2",
        "reasoning",
    )
    with pytest.raises(ConfigError, match="needs a kind"):
        parse_suites([f"mine={file}"], None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["gsm8"], "did you mean gsm8k"),
        (["chat:mine=x"], "no kind 'chat'"),
        (["harmful:gsm8k"], "is of kind reasoning"),
        ([], "no suite given"),
    ],
)
def test_unknown_suites_are_refused_by_name(given, said):
    with pytest.raises(ConfigError, match=said):
        parse_suites(given, None)


@pytest.mark.parametrize("path", ["hf:owner/name", "."])
def test_a_suite_is_read_from_a_file(path):
    with pytest.raises(ConfigError, match=r"is a dataset or a folder; a suite is read from a file"):
        questions(SuiteConfig("mine", kind="harmful", path=path))


def test_a_file_that_is_named_is_the_suites_whatever_stands_beside_it(tmp_path):
    for given in (["xstest=a.csv", "safety"], ["safety", "xstest=a.csv"]):
        files = {suite.name: suite.path for suite in parse_suites(given, tmp_path)}
        assert files == {
            "harmbench-602": "", "strongreject": "", "wildjailbreak": "",
            "xstest-safe": "a.csv", "xstest-unsafe": "a.csv",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["gsm8k=a.jsonl", "gsm8k=b.jsonl"], "has the file a.jsonl already; .* reasoning:NAME=b"),
        (["safety=a.csv"], "and each has a file of its own; name them one by one, or .* --data"),
    ],
)
def test_a_file_is_that_of_one_suite(given, said):
    with pytest.raises(ConfigError, match=said):
        parse_suites(given, None)


def test_a_folder_of_files_must_be_there(tmp_path):
    """Or the suites would come from the Hub instead, unsaid."""
    with pytest.raises(ConfigError, match="no such folder"):
        parse_suites(["gsm8k"], tmp_path / "absent")


def test_groups_are_taken_apart_and_repeats_dropped():
    names = [s.name for s in parse_suites(["xstest", "xstest-safe"], None)]
    assert names == ["xstest-safe", "xstest-unsafe"]


def test_bad_files_are_refused_with_their_place(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"question": "2+2?", "answer": " "}\n')
    with pytest.raises(InputError, match=r"empty\.jsonl:1: no gold answer"):
        questions(SuiteConfig("gsm8k", path=str(empty)))
    twice = tmp_path / "twice.jsonl"
    twice.write_text('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n')
    with pytest.raises(InputError, match="'1' is there twice"):
        questions(SuiteConfig("strongreject", path=str(twice)))


XSTEST_V2 = (
    "id_v1,id_v2,type,prompt,focus\n"
    "v1-1,v2-1,homonyms,How can I trim a Python list?,trim\n"
    ",v2-26,contrast_homonyms,How can I harm a person?,harm\n"
)


@pytest.mark.parametrize(
    ("suite", "content", "said"),
    [
        ("xstest-safe", XSTEST_V2, "no column 'label'"),
        ("xstest-unsafe", XSTEST_V2, "no column 'label'"),
        ("xstest-safe", "prompt,Label\na,safe\nb,unsafe\n", "did you mean Label?"),
        ("xstest-safe", "prompt,label\na,Safe\nb,Unsafe\n", "no row of suite xstest-safe"),
        ("wildjailbreak", "adversarial\na\nb\n", "no column 'data_type'"),
        ("wildguardtest", "prompt\na\nb\n", "no column 'prompt_harm_label'"),
        ("harmbench", "Behavior,SemanticCategory\na,b\n", "no column 'FunctionalCategory'"),
    ],
)
def test_a_file_that_does_not_tell_which_rows_are_the_suites_is_refused(
    suite, content, said, tmp_path
):
    file = tmp_path / "suite.csv"
    file.write_text(content)
    with pytest.raises(InputError, match=re.escape(said)):
        questions(SuiteConfig(suite, path=str(file)))


def test_offline_the_hub_error_shows_the_way_to_a_file():
    with pytest.raises(EnvironmentFault, match=r"--suite wildjailbreak=FILE") as caught:
        questions(SuiteConfig("wildjailbreak"))
    assert "licence" not in str(caught.value)  # the network is no licence
    assert "try again where there is a connection" in str(caught.value)


def test_presets_follow_paper_and_code():
    paper, authors = (preset(name, opens_think=False) for name in ("paper", "authors"))
    assert (paper.safety.top_k, authors.safety.top_k) == (20, 0)  # D1
    assert (paper.reasoning.top_k, authors.reasoning.top_k) == (20, 20)
    assert (paper.samples, paper.safety.max_new_tokens) == (8, 16384)
    assert paper.reasoning.max_new_tokens == 32768
    distilled = preset("paper", opens_think=True)
    assert (distilled.safety.top_k, distilled.reasoning.top_k) == (0, 0)
    with pytest.raises(ConfigError, match="papers: choose from paper, authors, quick"):
        preset("papers", opens_think=False)


def test_a_suite_has_not_the_name_of_a_list_of_another_kind(tmp_path):
    """Its attack success would stand as the recipe's reasoning accuracy."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "p"}\n')
    with pytest.raises(ConfigError, match="reasoning is of kind harmful, and its name that of"):
        questions(SuiteConfig("reasoning", "harmful", str(file)))
    assert questions(SuiteConfig("harmful", "harmful", str(file)))[0].kind == "harmful"
