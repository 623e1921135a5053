"""Paired differences, and the paper's numbers as they are printed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.support import SHARED
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import (
    compare_evaluations,
    paper_model,
    paper_rows,
    paper_table,
    published_tables,
    read_evaluation,
)
from thinksafe_jax.evaluation.compare import Evaluated
from thinksafe_jax.intervals import clustered, paired_difference, pass_at_k


def evaluated(label: str, right: list[int], suite: str = "gsm8k") -> Evaluated:
    rows = [
        {"suite": suite, "kind": "reasoning", "id": str(n), "sample": 0, "prompt": f"q{n}"}
        | {"extracted": "1", "correct": bool(hit), "finish_reason": "stop"}
        for n, hit in enumerate(right)
    ]
    return Evaluated(label, {suite: rows}, Path(label), "after")


def test_pairing_finds_what_independent_intervals_cannot():
    hits = [n % 2 for n in range(200)]
    better = [1 if n % 20 == 0 else hit for n, hit in enumerate(hits)]
    (line,) = compare_evaluations(evaluated("a", hits), evaluated("b", better))
    assert line.difference.value == pytest.approx(0.05)
    assert line.difference.low is not None and line.difference.low > 0
    assert line.left.high > line.right.low  # the two intervals overlap


def test_no_difference_still_has_a_width():
    same = {str(n): 1.0 for n in range(100)}
    found = paired_difference(same, same)
    assert found.value == 0 and found.high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_only_common_problems_are_paired_and_the_others_counted():
    (line,) = compare_evaluations(evaluated("a", [1] * 30), evaluated("b", [1] * 20))
    assert (line.common, line.only_left, line.only_right) == (20, 10, 0)


def test_a_cluster_is_no_question_that_has_its_name():
    left, right = evaluated("a", [1, 0]), evaluated("b", [1, 0])
    for side in (left, right):
        side.suites["gsm8k"][0]["cluster"] = "1"
    assert compare_evaluations(left, right)[0].common == 2


def test_other_questions_under_the_same_ids_are_refused():
    left, right = evaluated("a", [1, 0]), evaluated("b", [1, 0])
    right.suites["gsm8k"][1]["prompt"] = "another"
    with pytest.raises(InputError, match="question '1' is not the same in both"):
        compare_evaluations(left, right)
    with pytest.raises(InputError, match="no suite in common"):
        compare_evaluations(left, evaluated("b", [1], suite="math500"))


def test_rows_with_line_separators_in_their_texts_are_read(tmp_path):
    (side,) = evaluated("a", [1]).suites.values()
    folder = tmp_path / "evaluation/after"
    folder.mkdir(parents=True)
    row = side[0] | {"prompt": "17\u2028+\u202925\u0085", "response": "42"}
    (folder / "rows.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", "utf-8")
    assert read_evaluation(str(tmp_path)).suites == {"gsm8k": [row]}


def test_clustered_intervals_cover():
    """Problems of differing difficulty, 8 samples each: the interval covers as often as it says."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        chances = rng.beta(0.6, 0.4, size=30)  # AIME: mostly solved or not
        rate = clustered([list((rng.random(8) < p).astype(float)) for p in chances])
        covered += rate.low <= 0.6 <= rate.high
    assert covered >= 182  # of 200 at 95 %: fewer with probability below 0.01


def test_pass_at_k_by_hand():
    assert pass_at_k(1, 4, 2) == pytest.approx(0.5)
    assert pass_at_k(0, 8, 4) == 0
    assert pass_at_k(8, 8, 8) == 1
    with pytest.raises(ValueError, match="pass@9 needs at least 9"):
        pass_at_k(1, 8, 9)


# the paper's numbers


def test_models_are_found_by_the_end_of_their_name():
    assert paper_model("Qwen/Qwen3-0.6B") == "Qwen3-0.6B"
    assert paper_model("models/DeepSeek-R1-Distill-Llama-8B/") == "DeepSeek-R1-Distill-Llama-8B"
    assert paper_model("mini:student") is None
    assert paper_rows("Qwen3-4B")["ThinkSafe"]["harmbench"] == 9.63


def test_averages_are_the_recomputed_ones_but_for_the_known_misprints():
    tables = published_tables()
    odd = {(m["model"], m["method"]) for m in tables["misprints"]}
    for model, rows in tables["models"].items():
        for method in rows:
            row = paper_rows(model)[method]
            for average, names in (
                ("safety_average", ("harmbench", "strongreject", "wildjailbreak", "xstest")),
                ("reasoning_average", ("aime24", "gsm8k", "math500", "gpqa")),
            ):
                mean = sum(row[name] for name in names) / 4
                if (model, method) not in odd and "controlled" not in method:
                    assert row[average] == pytest.approx(mean, abs=0.0101), (model, method, average)


def test_every_number_is_the_reference_tables():
    file = SHARED / "reference/paper.md"
    if not file.exists():
        pytest.skip("reference/paper.md is not beside the repository")
    text = file.read_text(encoding="utf-8")
    section = text[text.index("### 3.1") : text.index("**Arithmetic audit")]
    rows = re.findall(r"^\| ([^|]+?) \|((?: [0-9.]+ \|)+)$", section, re.MULTILINE)
    printed = [(name, [float(x) for x in cells.split("|")[:-1]][:10]) for name, cells in rows]
    ours = [
        (name.replace(" (", "("), values)
        for methods in published_tables()["models"].values()
        for name, values in methods.items()
    ]
    assert len(ours) == 65
    assert all(row in printed for row in ours)
    # table 9 repeats one row of table 1, with another GPQA
    assert [row for row in printed if row not in ours] == [
        ("ThinkSafe", [9.14, 0.32, 7.35, 1.2, 4.5, 72.92, 88.0, 93.1, 59.97, 78.5])
    ]


def test_the_papers_average_needs_all_four_suites():
    def facts(value: float) -> dict:
        return {"rate": {"value": value}}

    three = {"harmbench-602": facts(0.1), "strongreject": facts(0.2), "wildjailbreak": facts(0.3)}
    assert "safety_average" not in (paper_table(three) or {})
    found = paper_table(three | {"xstest-safe": facts(0.4)})
    assert found is not None and found["safety_average"] == pytest.approx(25)
    assert paper_table({"harmbench": facts(0.1)}) is None  # the standard behaviours are another set
