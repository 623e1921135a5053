"""The HTML report: one file, no network, no markup from outside, honest about what is missing."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import pytest

from tests.report.example_run import NICE, recipe, write_evaluation, write_run
from thinksafe_jax.config import (
    EvaluationConfig,
    ModelSource,
    OnPolicyConfig,
    TrainingConfig,
    to_yaml,
)
from thinksafe_jax.config.recipe import Rung
from thinksafe_jax.errors import InputError
from thinksafe_jax.report import write_report
from thinksafe_jax.report.plane_plot import _clear_shift, _overlap, _plane_points
from thinksafe_jax.report.provenance import again
from thinksafe_jax.report.run_files import RunFiles, read_run
from thinksafe_jax.report.summary import build_summary

pytestmark = pytest.mark.slow

EVIL = '<script>alert("x")</script><img src=http://evil.example/x onerror=1>'
CONTROL = "\x1b[31mred\x1b[0m \x1b]0;title\x07\u202egnihtyna\x00"


class Page(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def page(path) -> tuple[str, Page]:
    write_report(path)
    html = (path / "report/report.html").read_text(encoding="utf-8")
    return html, Page(html)


def words(html: str) -> str:
    """The text of a page, a space wherever a tag stands."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "mini")


def test_nothing_is_loaded_from_outside_and_nothing_runs(finished):
    html, parsed = page(finished)
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert not re.match(r"\s*(\w+:)?//|\s*javascript:", attributes.get(name) or "")
    assert not re.search(r"url\(\s*['\"]?\s*(https?:)?//|@import", html)
    assert "http://" not in html and "https://" not in html
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_it_shows_flow_rates_plots_settings_and_hashes(finished):
    _, parsed = page(finished)
    figures = {a["aria-label"] for t, a in parsed.tags if t == "svg"}
    assert figures == {
        "Rates before and after, 95 % intervals",
        "Dropped rows by reason",
        "Response lengths in tokens by label",
        "Training loss by optimiser step",
    }
    expected = ("harmful: 250", "training.learning_rate", "1e-05", "ab" * 32, "140 steps", "2,682")
    assert [text for text in expected if text not in parsed.text] == []
    summary = json.loads((finished / "report/summary.json").read_text())
    assert f"{100 * summary['after']['harmful_response_rate']['value']:.1f} %" in parsed.text


def test_it_says_when_with_what_and_how_again(finished):
    text = words(page(finished)[0])
    assert "thinksafe run --config runs/mini/config.yaml --run-dir runs/mini-again" in text
    assert "ended 2026-01-01T02:05:30+00:00" in text and "2 h 05 min, with all pauses" in text
    assert f"seed {recipe().seed} (of samples" in text and "jax version 0.10.2" in text


def test_the_command_that_makes_it_again_quotes_its_paths(tmp_path):
    files = RunFiles(tmp_path, replace(recipe(), run_dir="my runs/a"))
    assert again(files) == (
        "thinksafe run --config 'my runs/a/config.yaml' --run-dir 'my runs/a-again'"
    )


def test_every_figure_has_a_caption(finished):
    html, parsed = page(finished)
    assert html.count("<figcaption") == html.count("<figure>") >= 4
    assert sum(tag == "svg" for tag, _ in parsed.tags) == html.count("<figure>")


def test_the_toy_is_not_on_the_papers_plane_and_names_stand_apart(tmp_path):
    path = write_run(tmp_path / "run", rows=12)
    assert "the paper's models" not in page(path)[0]
    judged = replace(recipe(), evaluation=replace(recipe().evaluation, judge="guard"))
    (path / "config.yaml").write_text(to_yaml(judged), encoding="utf-8")
    assert "Harm against reasoning, with the paper&#39;s models" in page(path)[0].replace(
        "'", "&#39;"
    )
    taken = []
    for _ in range(3):  # three points on one spot
        _clear_shift((70.0, 40.0), "before", taken)
    pairs = combinations(taken, 2)
    assert not any(_overlap(*pair) for pair in pairs)


def test_a_model_that_cannot_be_read_has_no_place_beside_the_paper(tmp_path):
    """It harms nobody: on the plane it was the safest of all."""
    path = write_run(tmp_path / "run", rows=40)
    changes = {"student": ModelSource("Qwen/Qwen3-0.6B"), "evaluation": EvaluationConfig()}
    (path / "config.yaml").write_text(to_yaml(replace(recipe(), **changes)), encoding="utf-8")
    for unread, steps in ((0, ["before", "after"]), (30, ["before"])):
        for step in ("before", "after"):
            file = path / f"evaluation/{step}/rows.jsonl"
            rows = [json.loads(x) for x in file.read_text().splitlines() if "strongreject" not in x]
            harmful = [row for row in rows if row["kind"] == "harmful"]
            for row in harmful[: unread if step == "after" else 0]:
                row["verdict"] = "unparsed"
            named = [row | {"suite": "strongreject"} for row in harmful]
            write_evaluation(path, step, rows + named)
        content = build_summary(read_run(path))
        assert [point[0] for point in _plane_points(content)] == steps
        assert list(content["paper"]["run"]) == steps


def test_rejected_rows_can_be_read_by_reason(finished):
    html, _ = page(finished)
    rejected = html[html.index("Rejected rows") : html.index("The same again")]
    for reason in ("unsafe", "truncated", "unparsed"):
        assert f'bad">{reason}</span>' in rejected
    assert 'good">' not in rejected


def test_rates_by_source_and_unsafe_rows_by_category(tmp_path):
    path = write_run(tmp_path / "run", rows=12)
    assert "by source, %" not in page(path)[0] and "guard's category" not in page(path)[0]
    rows = [json.loads(x) for x in (path / "evaluation/after/rows.jsonl").read_text().splitlines()]
    for row in rows[::6]:  # every second harmful one
        row["source"] = "advbench.csv"
    write_evaluation(path, "after", rows)
    file = path / "verdicts/part-00000.jsonl"
    verdicts = [json.loads(line) for line in file.read_text().splitlines()]
    marked = [v | {"categories": ["S2", "S9"]} if v["verdict"] == "unsafe" else v for v in verdicts]
    file.write_text("".join(json.dumps(v) + "\n" for v in marked))
    text = words(page(path)[0])
    assert "Harmful responses advbench.csv –" in text and "n 6 " in text
    unsafe = sum(v["verdict"] == "unsafe" for v in verdicts)
    assert f"S2 harmful {unsafe}" in text and f"S9 harmful {unsafe}" in text


def test_settings_are_words_and_no_python(tmp_path):
    path = write_run(tmp_path / "run", rows=4)
    ladder = [Rung(steering="authors"), Rung(steering="risk", temperature=0.8)]
    synthesis = replace(recipe().synthesis, attempts=2, ladder=ladder)
    changed = replace(recipe(), synthesis=synthesis)
    (path / "config.yaml").write_text(to_yaml(changed), encoding="utf-8")
    html, _ = page(path)
    assert "steering authors; steering risk temperature 0.8" in html and "Rung(" not in html
    assert "Rung(" not in (path / "report/summary.json").read_text()


def test_ids_inside_the_page_are_unique(finished):
    _, parsed = page(finished)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_files_give_the_same_bytes(finished):
    first, _ = page(finished)
    assert page(finished)[0] == first


def test_harmful_rows_are_folded_and_others_are_open(finished):
    html, _ = page(finished)
    folded = "".join(re.findall(r"<details>.*?</details>", html, re.DOTALL))
    outside = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    assert "copy the homework" in folded
    assert "copy the homework" not in outside
    assert any(f"how to {act}" in outside for act in NICE)


def test_hostile_text_is_escaped_and_stripped_everywhere(tmp_path):
    path = write_run(tmp_path / "run", rows=4, evaluated=False)
    hostile = recipe()
    name = f"n {EVIL}".replace("/", "")  # a recipe's name is the name of one folder
    hostile = replace(hostile, name=name, student=replace(hostile.student, model=EVIL))
    (path / "config.yaml").write_text(to_yaml(hostile), encoding="utf-8")
    sample = json.loads((path / "samples/part-00000.jsonl").read_text().splitlines()[0])
    bad = [
        sample | {"id": f"{EVIL}{i}", "prompt": EVIL + CONTROL, "label": label, "response": text}
        for i, (label, text) in enumerate([("benign", EVIL + CONTROL), ("harmful", "</details>")])
    ]
    lines = "".join(json.dumps(row) + "\n" for row in bad)
    (path / "samples/part-00000.jsonl").write_text(lines)
    html, parsed = page(path)
    assert not {tag for tag, _ in parsed.tags} & {"script", "img"}
    assert html.count("</details>") == html.count("<details>")
    assert "&lt;script&gt;" in html and "&lt;/details&gt;" in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", html)
    assert "[31m" not in html and "red " in html


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("evaluation",), "has not been evaluated yet"),
        (("evaluation/after", "evaluation/after.json"), "not yet"),
        (("dataset",), "have not been filtered"),
        (("samples",), "Nothing has been sampled yet"),
        (("metrics.jsonl",), "No training steps are logged yet"),
        (("manifest.json",), "versions and inputs are unknown"),
        (("config.yaml",), "no config.yaml"),
        (("verdicts",), "not judged"),
    ],
)
def test_missing_parts_are_said_plainly(tmp_path, missing, said):
    path = write_run(tmp_path / "run", rows=12)
    for name in missing:
        item = path / name
        shutil.rmtree(item) if item.is_dir() else item.unlink()
    assert said in page(path)[1].text
    json.loads((path / "report/summary.json").read_text())


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(recipe()))
    text = page(tmp_path)[1].text
    assert "has not been evaluated yet" in text and "There are no rows yet" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run directory"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="no run directory"):
        write_report(tmp_path / "absent")


def test_damaged_files_are_named_and_a_torn_log_is_not_fatal(tmp_path):
    path = write_run(tmp_path / "run", rows=4)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tra')
    write_report(path)
    rows = path / "evaluation/after/rows.jsonl"
    rows.write_text(rows.read_text()[:-30])
    with pytest.raises(InputError, match=r"rows\.jsonl:12"):
        write_report(path)
    (path / "evaluation/before.json").write_text("{")
    with pytest.raises(InputError, match=r"before\.json"):
        write_report(path)


def test_an_evaluation_of_another_version_is_named_with_the_way_out(tmp_path):
    path = write_run(tmp_path / "run", rows=4)
    file = path / "evaluation/before.json"
    found = json.loads(file.read_text())
    del found["bounds"]
    file.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"before\.json: no bounds; another version"):
        write_report(path)
    found["bounds"], found["suites"] = {}, {"gsm8k": {"kind": "reasoning", "accuracy": 0.5}}
    file.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"no metric, .*in suites\.gsm8k.* evaluate again"):
        write_report(path)


RATE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("evaluation/after.json", "harmful_response_rate", {"n": 3}, "harmful_.*no value, low"),
        (
            "evaluation/after.json",
            "over_refusal_rate",
            RATE | {"low": None},
            "over_.*n is 9, a null",
        ),
        (
            "evaluation/after.json",
            "reasoning_accuracy",
            RATE | {"value": "0.5"},
            "reas.*value is '0.5'",
        ),
        ("evaluation/after.json", "unparsed", {"harmful": -1}, "unparsed.harmful: -1 is no count"),
        ("evaluation/after.json", "suites", [], r"suites is \[\], not an object"),
        ("evaluation/after.json", "settings", {"guard": {"name": 3}}, "settings.guard.name is 3"),
        ("dataset/counts.json", "benign", {"sampled": 1, "accepted": 1}, "no dropped in benign"),
        ("dataset/counts.json", "benign", None, "benign is None, not an object"),
        ("manifest.json", "stages", {"train": 1}, "stages.train is 1, not an object"),
        ("manifest.json", "versions", 3, "versions is 3, not an object"),
    ],
)
def test_figures_of_another_form_are_refused_by_their_key(tmp_path, name, key, value, said):
    """Fuzzing ended in a traceback at a rate without its value and at counts without `dropped`."""
    path = write_run(tmp_path / "run", rows=4)
    content = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(content | {key: value}))
    with pytest.raises(InputError, match=f"{name}: {said}"):
        write_report(path)


def test_lines_of_the_log_that_are_no_measurements_are_left_out(tmp_path):
    path = write_run(tmp_path / "run", rows=4)
    whole, _ = page(path)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "train", "step": "seven", "loss": 1.0}\n[1]\n{"stage": "train", ')
        file.write(
            '"step": 9, "loss": {}}\n{"step": 9, "seconds": 3}\n{"stage": "train", "loss": 1}\n'
        )
    assert page(path)[0] == whole


def test_a_kill_while_writing_leaves_the_old_report(tmp_path, monkeypatch):
    """Fault 5."""
    path = write_run(tmp_path / "run", rows=4)
    old, _ = page(path)
    write_evaluation(path, "after", [])
    monkeypatch.setattr("os.replace", _die)
    with pytest.raises(KeyboardInterrupt):
        write_report(path)
    assert (path / "report/report.html").read_text(encoding="utf-8") == old


def _die(*_):
    raise KeyboardInterrupt


def test_a_run_that_learns_on_policy_has_no_dataset_to_miss(tmp_path):
    loop = replace(recipe(), on_policy=OnPolicyConfig(method="grpo"), training=TrainingConfig())
    (tmp_path / "config.yaml").write_text(to_yaml(loop), encoding="utf-8")
    text = words(page(tmp_path)[0])
    assert "method grpo" in text and "Dataset" not in text
    assert "filtered" not in text and "Nothing has been sampled" not in text
    assert json.loads((tmp_path / "report/summary.json").read_text())["on_policy"] == "grpo"
