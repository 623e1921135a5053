"""What reaches dataset/, how it is counted, and that training never starts on nothing."""

import json

import pytest
import yaml

from thinksafe_jax.config import GuardConfig, ModelSource, PromptSource, Recipe, SynthesisConfig
from thinksafe_jax.errors import InputError
from thinksafe_jax.guards import Verdict
from thinksafe_jax.guards.matchers.refusal_match import RefusalMatch
from thinksafe_jax.report import card_of_dataset
from thinksafe_jax.runs import RowStore
from thinksafe_jax.storage import plain
from thinksafe_jax.synthesis import (
    DatasetFacts,
    Ledger,
    dataset_facts,
    read_dataset,
    reasons_table,
)
from thinksafe_jax.synthesis import write_dataset as write_from_stores

pytestmark = pytest.mark.slow

GOOD = "<think>\nHm.\n</think>\n\nNo."


def sample(key, label="harmful", response=GOOD, finish_reason="stop", attempt=1, **more):
    return {
        "id": key, "prompt": f"prompt {key}", "label": label, "steering": "authors",
        "response": response, "finish_reason": finish_reason, "tokens": 5, "attempt": attempt,
        **more,
    }  # fmt: skip


def verdict(key, word="safe", attempt=1, truncated=False, marked=False):
    return Verdict(key, word, 0.1, "full", truncated, "g", marked=marked).row(attempt)


def write_dataset(run, samples, verdicts, settings):
    """The rows as the stores of a run, and the dataset that comes of them."""
    number = len(list(run.glob("rows-*")))
    stores = []
    for name, rows in (("samples", samples), ("verdicts", verdicts)):
        store = RowStore(run / f"rows-{number}" / name, ("id", "attempt"))
        store.append(rows)
        stores.append(store)
    ledger = Ledger(settings.reasoning, settings.guarded).read(*stores)
    counts, lengths = write_from_stores(
        run, stores[0], ledger, settings, count_tokens=lambda text: len(text.split())
    )
    (run / "dataset/README.md").write_text(card_of_dataset(settings, counts, lengths))
    return counts


def facts(**changes):
    settings = {
        "name": "test", "method": "thinksafe", "student": "s", "guard": "g", "weak_guard": False,
        "steering": "authors", "reasoning": "think", "sampling": {"temperature": 0.6}, "seed": 1,
        "sources": {"p.jsonl": "abc"}, **changes,
    }  # fmt: skip
    return DatasetFacts(**settings)


SAMPLES = [
    sample("h2"),
    sample("h1", response="<think>\nÜ\n</think>\n\nNein {0} %s\u2028."),
    sample("h3"),
    sample("h4"),
    sample("h5", response="<think>never ends", finish_reason="length"),
    sample("h6", response="<think>a</think><think>b</think>c"),
    sample("h7", response="", finish_reason="", dropped="too_long"),
    sample("b1", "benign"),
    sample("b2", "benign", response="<think>a</think>"),
]
VERDICTS = [
    verdict("h1"),
    verdict("h2", truncated=True),
    verdict("h3", "unsafe", marked=True),
    verdict("h4", "unparsed"),
    verdict("b1"),
]
COUNTS = {
    "harmful": {
        "sampled": 7,
        "accepted": 2,
        "accepted_at": {"1": 2},
        "dropped": {
            "too_long": 1, "truncated": 1, "several_think_tags": 1, "unsafe": 1, "unparsed": 1,
        },
        "verdicts": {"judged": 4, "marked": 1, "truncated": 1},
    },
    "benign": {
        "sampled": 2, "accepted": 1, "accepted_at": {"1": 1}, "dropped": {"empty_answer": 1},
        "verdicts": {"judged": 1, "marked": 0, "truncated": 0},
    },
}  # fmt: skip


def rows_of(run):
    text = (run / "dataset" / "train.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.rstrip("\n").split("\n")]


def test_accepted_rows_hold_the_original_prompt(tmp_path):
    counts = write_dataset(tmp_path, SAMPLES, VERDICTS, facts())
    assert plain(counts) == COUNTS
    assert "; of 4 verdicts: 1 marked, 1 truncated" in reasons_table(counts)
    assert json.loads((tmp_path / "dataset" / "counts.json").read_text()) == COUNTS
    rows = rows_of(tmp_path)
    assert [row["id"] for row in rows] == ["b1", "h1", "h2"]
    assert rows[1] == {
        "id": "h1", "instruction": "prompt h1", "prompt_label": "harmful",
        "response": "<think>\nÜ\n</think>\n\nNein {0} %s\u2028.", "response_label": "safe",
            "finish_reason": "stop",
    }  # fmt: skip


def test_the_file_does_not_depend_on_the_order_of_sampling(tmp_path):
    write_dataset(tmp_path / "a", SAMPLES, VERDICTS, facts())
    write_dataset(tmp_path / "b", SAMPLES[::-1], VERDICTS[::-1], facts())
    for name in ("train.jsonl", "counts.json", "README.md"):
        one, other = (tmp_path / run / "dataset" / name for run in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_unparsed_is_never_accepted(tmp_path):
    """Fault 42, defects D2 and D3: neither unparsed nor a word that no guard may say."""
    words = [verdict("h1", "unparsed"), verdict("h2", "SAFE"), verdict("h3"), verdict("b1")]
    samples = [sample("h1"), sample("h2"), sample("h3"), sample("b1", "benign")]
    counts = write_dataset(tmp_path, samples, words, facts())
    assert counts["harmful"].dropped == {"unparsed": 2}
    assert [row["id"] for row in rows_of(tmp_path)] == ["b1", "h3"]


def test_a_row_without_a_verdict_stops(tmp_path):
    with pytest.raises(InputError, match=r"1 sampled rows have no verdict \(first: 'b1'\)"):
        write_dataset(tmp_path, SAMPLES, VERDICTS[:-1], facts())


@pytest.mark.parametrize("missing", ["harmful", "benign", "both"])
def test_an_empty_class_stops_before_training_with_the_reasons(tmp_path, missing):
    """Fault 47; the counts stay for the report, an older train.jsonl does not."""
    write_dataset(tmp_path, SAMPLES, VERDICTS, facts())
    hit = {"harmful": "h", "benign": "b", "both": "hb"}[missing]
    verdicts = [{**v, "verdict": "unsafe"} if v["id"][0] in hit else v for v in VERDICTS]
    with pytest.raises(InputError) as error:
        write_dataset(tmp_path, SAMPLES, verdicts, facts())
    label = "benign" if missing == "benign" else "harmful"
    assert f"no {label} " in str(error.value)
    assert "harmful: 7 prompts, " in str(error.value)
    assert "too_long 1, truncated 1" in str(error.value)
    assert not (tmp_path / "dataset" / "train.jsonl").exists()
    assert (tmp_path / "dataset" / "counts.json").exists()


def test_no_rows_at_all_stops(tmp_path):
    with pytest.raises(InputError, match="no harmful and no benign row"):
        write_dataset(tmp_path, [], [], facts())


def test_a_prompt_counts_once_over_its_attempts(tmp_path):
    samples = [
        sample("h1", attempt=2, response="<think>b</think>second"),
        sample("h1", attempt=1, response="<think>a</think>first"),
        sample("h1", attempt=3, response="<think>c</think>third"),
        sample("b1", "benign"),
        sample("b2", "benign", attempt=1),
        sample("b2", "benign", attempt=2, finish_reason="length"),
    ]
    verdicts = [
        verdict("h1", "unsafe", 1), verdict("h1", "safe", 2), verdict("h1", "safe", 3),
        verdict("b1"), verdict("b2", "unsafe", 1),
    ]  # fmt: skip
    counts = write_dataset(tmp_path, samples, verdicts, facts())
    assert plain(counts["harmful"]) == {
        "sampled": 1, "accepted": 1, "accepted_at": {"2": 1}, "dropped": {},
        "verdicts": {"judged": 3, "marked": 0, "truncated": 0},
    }  # fmt: skip
    assert counts["benign"].accepted == 1
    assert counts["benign"].dropped == {"truncated": 1}
    assert rows_of(tmp_path)[1]["response"] == "<think>b</think>second"


def test_direct_refusals_need_neither_guard_nor_benign_rows(tmp_path):
    """And no row says "safe", which nobody has found it to be."""
    settings = facts(method="direct-refusal", guard="none", sampling={})
    (count,) = write_dataset(tmp_path, [sample("h1")], [], settings).values()
    assert (count.accepted, count.verdicts["judged"]) == (1, 0)
    assert [row["response_label"] for row in rows_of(tmp_path)] == ["unjudged"]
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "same fixed refusal" in card
    assert "`response_label` (unjudged)" in card
    assert "Verdicts" not in card


def test_reasoning_that_is_taken_out_is_in_no_length(tmp_path):
    samples = [sample("h1", tokens=9000), sample("b1", "benign", tokens=9000)]
    settings = facts(harmful_reasoning="remove")
    write_dataset(tmp_path, samples, [verdict("h1"), verdict("b1")], settings)
    assert [row["response"] for row in rows_of(tmp_path)] == [GOOD, "<think>\n\n</think>\n\nNo."]
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "| tokens | benign | harmful |\n|---|---:|---:|\n| up to 64 | 0 | 1 |" in card


def test_the_card_warns_counts_and_escapes(tmp_path):
    """Fault 44: nothing that a recipe names can become markup."""
    hostile = '<script>alert(1)</script> | **x**\n---\n\x1b[31m"'
    write_dataset(
        tmp_path, SAMPLES, VERDICTS,
        facts(name=hostile, student=hostile, weak_guard=True, sources={hostile: "abc"}),
    )  # fmt: skip
    card = (tmp_path / "dataset" / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["pretty_name"] == hostile
    assert "<script>" not in body
    assert "\x1b" not in card
    assert "**x**" not in body
    assert "**Warning.**" in body
    assert "**The guard is weak.**" in body
    assert "| harmful | 7 | 2 | 1: 2 | too\\_long 1, truncated 1" in body
    assert "temperature 0.6" in body
    assert "harmful 4 (1 marked, 1 cut); benign 1 (0 marked, 0 cut)" in body


def test_facts_come_from_the_recipe_and_the_run(tmp_path):
    file, revisions = tmp_path / "p.jsonl", tmp_path / "models.json"
    file.write_text('{"prompt": "x"}\n')
    commits = {"me/student": "11", "me/guard": "22", "me/judge": "33"}
    revisions.write_text(
        json.dumps({k: {"revision": None, "commit": v} for k, v in commits.items()})
    )
    recipe = Recipe(
        name="r",
        student=ModelSource("me/student"),
        guard=GuardConfig(model="me/guard"),
        judge=GuardConfig(model="me/judge"),  # has no part in the data
        synthesis=SynthesisConfig(
            method="rejection", attempts=2, prompts=[PromptSource(path=str(file), label="harmful")]
        ),
    )
    got = dataset_facts(recipe, RefusalMatch(), revisions)
    assert (got.guard, got.weak_guard, got.steering) == ("refusal-match", True, "authors")
    assert got.sampling["top_k"] == 20
    assert got.commits == {"me/student": "11", "me/guard": "22"}
    assert [line[:10] for line in got.ladder] == ["1: authors", "2: authors"]
    assert list(got.sources) == [str(file)]
    assert got.labels == ("harmful", "benign")


def test_the_card_says_who_wrote_the_responses(tmp_path):
    write_dataset(tmp_path, SAMPLES, VERDICTS, facts(commits={"s": "11"}))
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "by the student itself" in card and "| commit | s at 11 |" in card
    write_dataset(tmp_path, SAMPLES, VERDICTS, facts(teacher="big/teacher"))
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "by big/teacher, a teacher, and not by the student" in card
    assert "| student | s |\n| teacher | big/teacher |" in card
    assert "keys and values" not in card
    write_dataset(tmp_path, SAMPLES, VERDICTS, facts(kv_dtype="int8"))
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "| int8, rounded: responses are not drawn from the distribution of the model" in card


ROW = {"id": "c", "instruction": "x", "response": GOOD, "prompt_label": "benign",
       "response_label": "safe", "finish_reason": "stop"}  # fmt: skip


def line(**changes):
    return json.dumps({k: v for k, v in {**ROW, **changes}.items() if v is not None}) + "\n"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("{good}\n \n", 1),
        ("\ufeff{good}", 1),
        ("{crlf}", 1),
        (json.dumps({**ROW, "response": "a\u2028b\u0085c"}, ensure_ascii=False), 1),
        ("", 0),
        ('{good}{{"id": "c"\n', "2: not a JSON object"),
        ("{good}[1]\n", "2: not a JSON object"),
        (line(response=None), "1: no response in the row"),
        (line(finish_reason=None, id=None), "1: no id and finish_reason in the row"),
        (line(response=5), "1: response is 5, not text"),
        (line(id=["c"]), r'1: id is \["c"\], not text'),
        (line(response="\ud800"), "1: half a surrogate pair in response"),
    ],
)
def test_a_dataset_that_was_edited_by_hand(tmp_path, text, rows):
    """What is still a row is read; what is none is named by file and line."""
    file = tmp_path / "dataset/train.jsonl"
    file.parent.mkdir()
    if "{good}" in text or "{crlf}" in text:
        text = text.format(good=line(), crlf=line().replace("\n", "\r\n"))
    file.write_bytes(text.encode())
    if isinstance(rows, int):
        assert len(list(read_dataset(tmp_path))) == rows
    else:
        with pytest.raises(InputError, match=f"train.jsonl:{rows}"):
            list(read_dataset(tmp_path))


def test_marked_parts_of_a_response_are_in_the_rows_that_are_trained_on(tmp_path):
    samples = [sample("h1", spans=[8, 11]), sample("b1", "benign")]
    write_dataset(tmp_path, samples, [verdict("h1"), verdict("b1")], facts())
    assert {row["id"]: row.get("spans") for row in read_dataset(tmp_path)} == {
        "h1": [8, 11],
        "b1": None,
    }
    without = facts(harmful_reasoning="remove")  # another response: its parts lie elsewhere
    write_dataset(tmp_path, samples, [verdict("h1"), verdict("b1")], without)
    assert not any("spans" in row for row in read_dataset(tmp_path))
