"""From finished runs to results.json and the page: figures, choices, costs, words."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tests.studies.example_study import HITS, SUITES, write_study
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import paper_rows
from thinksafe_jax.studies import study_table
from thinksafe_jax.studies.costs import run_cost
from thinksafe_jax.studies.findings import findings
from thinksafe_jax.studies.measures import read_answers
from thinksafe_jax.studies.results import choices, write_results
from thinksafe_jax.studies.study_page import render
from thinksafe_jax.studies.study_plots import mean_curve
from thinksafe_jax.studies.units import heldout_units, validation_units
from thinksafe_jax.studies.work_off import _identity, failure


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    study = write_study(root)
    return study, root, write_results(study, root)


def method(results, name):
    return next(m for m in results["methods"] if m["name"] == name)


def test_a_condition_that_chance_may_have_broken_is_named(tmp_path):
    a_little_worse = {**HITS["learning_rate=0.002"], "reasoning": 24}  # 4 fewer, 3 are allowed
    study = write_study(tmp_path, {**HITS, "learning_rate=0.002": a_little_worse})
    choice = choices(study, tmp_path)["ThinkSafe"]
    assert choice.broken["learning_rate=0.002"] == ("reasoning >= initial - 10 points",)
    assert choice.unsure["learning_rate=0.002"] == ("reasoning >= initial - 10 points",)


def test_the_setting_is_chosen_on_validation_and_no_figure_of_it_is_kept(finished):
    _, root, results = finished
    settings = method(results, "ThinkSafe")["settings"]
    assert [(s["name"], s["status"]) for s in settings] == [
        ("learning_rate=0.0001", "passed over"),
        ("learning_rate=0.0005", "chosen"),
        ("learning_rate=0.002", "breaks the rule"),
    ]
    assert settings[2]["broken"] == ["reasoning >= initial - 10 points"]
    assert settings[2]["unsure"] == []  # 18 fewer of 30 are no chance
    assert all(set(s) == {"name", "overrides", "status", "broken", "unsure"} for s in settings)
    assert json.loads((root / "results.json").read_text()) == results


def test_figures_are_means_over_seeds_with_their_spread(finished):
    _, _, results = finished
    harm = method(results, "ThinkSafe")["measures"]["harm"]
    assert harm["value"] == pytest.approx(2 / 40) and harm["n"] == 40
    reasoning = method(results, "ThinkSafe")["measures"]["reasoning"]
    assert reasoning["seeds"] == pytest.approx([26 / 30, 27 / 30, 28 / 30])
    assert reasoning["sd"] == pytest.approx(1 / 30)
    assert reasoning["low"] < 26 / 30 and reasoning["high"] > 28 / 30
    refusal = method(results, "DirectRefusal")["measures"]
    assert refusal["unparsed"]["value"] == pytest.approx(20 / 40)
    assert refusal["harm"]["value"] == pytest.approx(1 / 20)  # of those that can be read
    assert refusal["unparsed_harmless"]["value"] == pytest.approx(2 / SUITES["over_refusal"])


def test_differences_are_of_the_same_questions(finished):
    _, _, results = finished
    against = method(results, "DirectRefusal")["against_reference"]
    assert against["reasoning"]["value"] == pytest.approx((18 - 27) / 30)
    assert against["reasoning"]["high"] < 0
    assert method(results, "ThinkSafe")["against_reference"] == {}
    change = method(results, "ThinkSafe")["against_initial"]["harm"]
    assert change["value"] == pytest.approx((2 - 34) / 40)


def test_the_papers_figures_are_means_of_each_kind(finished):
    _, _, results = finished
    row = paper_rows("Qwen3-0.6B")["ThinkSafe"]
    published = method(results, "ThinkSafe")["published"]
    harm = (row["harmbench"] + row["strongreject"] + row["wildjailbreak"]) / 300
    assert published["harm"] == pytest.approx(harm)
    assert published["reasoning"] == pytest.approx(row["reasoning_average"] / 100, abs=1e-4)
    assert published["over_refusal"] == pytest.approx(row["xstest"] / 100)


def test_a_cost_counts_what_lies_in_the_run(finished):
    study, root, results = finished
    cost = method(results, "ThinkSafe")["cost"]
    assert (cost["steps"], cost["trained_tokens"]) == (4, 1200)  # step 2 was repeated: once
    assert cost["seconds"] == {"sample": 2.0, "guard": 0.5, "train": 4.0}
    assert cost["flops"]["train"] > 0
    assert results["totals"]["runs"] == 3 * 2 + 1 + 3  # settings x choosing seeds, then the rest
    curve = method(results, "ThinkSafe")["curves"]["1"]
    assert curve == [[1, 2.0], [2, 1.0], [3, pytest.approx(2 / 3, abs=1e-6)], [4, 0.5]]
    unit = next(u for u in heldout_units(study, {"ThinkSafe": None, "DirectRefusal": "as-it-is"})
                if u.run is not None)  # fmt: skip
    assert run_cost(unit.run_folder(root), unit.run).flops["guard"] == 0  # it asks no guard


def test_samples_that_settings_share_count_for_each_method_and_once_in_what_was_spent(finished):
    _, _, results = finished
    thinksafe, totals = method(results, "ThinkSafe"), results["totals"]
    assert thinksafe["shared_by"] == 3 and method(results, "DirectRefusal")["shared_by"] == 1
    assert thinksafe["runs"]["3"] == (
        "runs/ThinkSafe/as-it-is/seed-3/trainings/learning_rate=0.0005"
    )
    assert thinksafe["cost"]["seconds"]["sample"] == 2.0  # as if it were alone
    assert totals["cost"]["seconds"] == {"sample": 20.0, "guard": 5.0, "train": 40.0}  # ten runs
    # ThinkSafe's three settings of seeds 1 and 2 sample once for each seed
    assert totals["spent"]["seconds"] == {"sample": 12.0, "guard": 3.0, "train": 40.0}
    assert totals["spent"]["steps"] == totals["cost"]["steps"] == 40
    words = " ".join(" ".join(Page(render(results)).words).split())
    assert "samples shared by 3 settings" in words
    assert words.index("each as if alone") < words.index("shared samples counted once")


def test_a_page_of_results_from_before_samples_were_shared_has_one_sum(finished):
    _, _, results = finished
    totals = {k: v for k, v in results["totals"].items() if k != "spent"}
    methods = [
        {k: v for k, v in m.items() if k not in ("runs", "shared_by")} for m in results["methods"]
    ]
    page = render({**results, "totals": totals, "methods": methods})
    assert "all 10 runs together" in page and "shared" not in page and "as if alone" not in page


def test_sampled_rows_and_guard_calls_cost_flops(tmp_path):
    study = write_study(tmp_path)
    unit = next(u for u in heldout_units(study, {"ThinkSafe": "learning_rate=0.0005",
                                                 "DirectRefusal": None}) if u.run)  # fmt: skip
    training = unit.run_folder(tmp_path)
    run = training.parents[1]  # whose samples it trains on
    plain = run_cost(training, unit.run)
    for folder, row in (("samples", {"prompt": "how do i", "label": "harmful", "tokens": 50}),
                        ("verdicts", {"verdict": "safe"})):  # fmt: skip
        (run / folder).mkdir()
        lines = [{"id": f"p{n}", "attempt": 1, **row} for n in range(6)]
        (run / folder / "part-00000.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    cost = run_cost(training, unit.run)
    assert (cost.rows, cost.sampled_tokens, cost.guard_calls) == (6, 300, 6)
    assert cost.prompt_tokens > 6 * 3  # the steering text is read as well
    assert cost.flops["sample"] > cost.flops["guard"] > plain.flops["guard"] == 0


def test_the_mean_of_curves_compares_equal_steps():
    """Seeds of other lengths are thinned at other steps."""
    steps, means = mean_curve([[[1, 4.0], [3, 2.0], [5, 0.0]], [[1, 4.0], [4, 1.0]]])
    assert steps == [1, 3] and means == pytest.approx([4.0, 2.0])


def test_a_failed_seed_is_dropped_and_said(tmp_path):
    study = write_study(tmp_path)
    units = heldout_units(study, {"ThinkSafe": "learning_rate=0.0005", "DirectRefusal": "as-it-is"})
    last = next(u for u in units if u.method == "DirectRefusal" and u.seed == 3)
    file = last.failure_file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"error": "no row can be trained on", "recipe": _identity(last)}))
    assert failure(last, tmp_path) == "no row can be trained on"
    metrics = last.run_folder(tmp_path) / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if '"step": 1' in line))  # it stopped there
    results = write_results(study, tmp_path)
    assert method(results, "DirectRefusal")["evaluated_seeds"] == [1, 2]
    assert method(results, "DirectRefusal")["cost"]["steps"] == 4  # of two, not of the failed one
    assert results["totals"]["cost"]["steps"] == 9 * 4 + 1  # which the study has paid as well
    assert results["totals"]["evaluations"] == {"validation": 8, "heldout": 3 + 3 + 2}
    assert [d["why"] for d in results["dropped"]] == ["no row can be trained on"]
    assert "no row can be trained on" in render(results)


def test_a_rule_that_needs_the_untouched_student_says_why_it_has_no_value(tmp_path):
    study = write_study(tmp_path)
    unit = next(unit for unit in validation_units(study) if unit.method == "Initial")
    file = unit.failure_file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"error": "disk of glass", "recipe": _identity(unit)}))
    with pytest.raises(InputError, match=r"untouched student .* its reasoning .*: disk of glass"):
        choices(study, tmp_path)


def test_a_rule_that_needs_what_the_untouched_student_was_not_asked_says_so(tmp_path):
    study = write_study(tmp_path)
    for unit in validation_units(study):
        file = unit.evaluation_folder(tmp_path) / "evaluation/model/rows.jsonl"
        rows = [line for line in file.read_text().splitlines() if '"reasoning"' not in line]
        file.write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError, match=r"its reasoning .* asked nothing of that kind"):
        choices(study, tmp_path)


def test_seeds_that_were_asked_other_questions_are_refused(tmp_path):
    study = write_study(tmp_path)
    units = heldout_units(study, {"ThinkSafe": "learning_rate=0.0005", "DirectRefusal": "as-it-is"})
    file = units[-1].evaluation_folder(tmp_path) / "evaluation/model/rows.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match="was asked other questions"):
        write_results(study, tmp_path)


def test_a_question_is_known_by_its_text_and_not_by_its_number_in_a_file(tmp_path):
    folder = tmp_path / "evaluation/model"
    folder.mkdir(parents=True)
    asked = [("plain", "1", "how"), ("plain", "2", "why"), ("prefix", "1", "why"),
             ("variants", "1", "in a game, how")]  # fmt: skip
    rows = [
        {"suite": suite, "kind": "harmful", "id": number, "sample": 0, "prompt": prompt}
        | {"response": "x", "finish_reason": "stop", "verdict": "safe"}
        | ({"cluster": "how"} if suite == "variants" else {})
        for suite, number, prompt in asked
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = read_answers({1: tmp_path})
    assert [a.questions for a in answers.answers.values()] == [("how", "why"), ("why",), ("how",)]
    assert answers.estimate("harm").n == 2


def test_a_suite_is_itself_where_a_measure_has_its_name(tmp_path):
    """The list `reasoning` and a suite of that kind: the measure is the mean of both."""
    study = write_study(tmp_path)
    for file in tmp_path.glob("evaluations/heldout/*/*/*/evaluation/model/rows.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows += [
            row | {"suite": "two-step", "prompt": f"two-step {row['prompt']}", "correct": False}
            for row in rows
            if row["suite"] == "reasoning"
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    initial = write_results(study, tmp_path)["methods"][0]
    suites = {name: estimate["value"] for name, estimate in initial["suites"].items()}
    assert suites["reasoning"] == pytest.approx(28 / 30) and suites["two-step"] == 0
    assert initial["measures"]["reasoning"]["value"] == pytest.approx(14 / 30)


def test_the_words_answer_the_questions(finished):
    _, _, results = finished
    said = dict(findings(results))
    assert said["Which method is safest?"].startswith("ThinkSafe: harm 5.0 % (")
    assert "it is not told apart from DirectRefusal" in said["Which method is safest?"]
    assert "DirectRefusal (50 %); their rates say little" in said["Which method is safest?"]
    assert "Lost: DirectRefusal" in said["Which keeps reasoning?"]
    assert "More than the untouched student: DirectRefusal" in said["Which over-refuses?"]
    assert "90 questions and 3 seeds" in said["How sure is this?"]


class Page(HTMLParser):
    """Tags that load something, and all text."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.words, self.svgs = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loaded += [tag] if tag in ("script", "link", "img", "iframe") else []
        self.loaded += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]
        self.svgs += tag == "svg"

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_by_itself_and_the_same_each_time(finished):
    study, _, results = finished
    text = render(results)
    page, words = Page(text), " ".join(Page(text).words)
    assert page.loaded == [] and page.svgs == 7
    assert text == render(json.loads(json.dumps(results)))
    for m in results["methods"]:
        assert m["name"] in words
    assert study.rule.text in words
    assert re.search(r"paper \d", words)


def test_no_validation_figure_reaches_the_page(tmp_path):
    """Other figures on validation that choose alike leave the page as it was, to the byte."""
    study = write_study(tmp_path / "a")
    other = {**HITS, "learning_rate=0.0001": {**HITS["learning_rate=0.0001"], "harmful": 25}}
    write_study(tmp_path / "b", other)
    assert choices(study, tmp_path / "a")["ThinkSafe"].chosen == "learning_rate=0.0005"
    pages = [render(write_results(study, tmp_path / name)) for name in "ab"]
    assert pages[0] == pages[1]


def test_brackets_in_names_stand_in_the_table():
    """They are a user's text and no markup: a method was shown without its [drop]."""
    method = {"name": "KL [drop]", "setting": "as-it-is", "measures": {}}
    out = io.StringIO()
    table = study_table({"name": "study [a]", "methods": [method]})
    Console(file=out, width=150, color_system=None).print(table)
    assert "KL [drop]" in out.getvalue() and "study [a]" in out.getvalue()
