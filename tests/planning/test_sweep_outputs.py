"""What a sweep's rows become: CSV, a Pareto picture, the reasons of the best, bounds and times."""

import csv
import json

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.errors import InputError
from thinksafe_jax.planning.sweep import read_rows
from thinksafe_jax.planning.sweep_best import (
    best_lines,
    draft_lines,
    pareto_front,
    rate_per_chip,
)
from thinksafe_jax.planning.sweep_compare import comparison_table, matched, print_comparison
from thinksafe_jax.planning.sweep_csv import sweep_csv
from thinksafe_jax.planning.sweep_pareto import pareto_plot

KEPT = read_rows(REPOSITORY / "scripts/bench/results/sharding_sweep.json")


def row(table: str, **changes) -> dict:
    """A row of one decode program on eight chips: 80 rows in 10 ms, bound by memory."""
    figures = {
        "model": "M", "mesh": "mesh-8", "chip": "chip", "chips": 8, "table": table,
        "rules_hash": table, "axes": {"replica": 8}, "phase": "decode", "compiled_for": "CPU",
        "settings": {"slots": None}, "measured": False, "status": "ok", "programs": 8, "rows": 10,
        "tokens": 10, "peak_bytes": 8e9, "fits": True, "compute_seconds": 0.004,
        "memory_seconds": 0.010, "network_seconds": 0.001, "limit": "memory",
        "roofline_seconds": 0.010, "collectives": {}, "warnings": [],
    }  # fmt: skip
    figures |= changes
    rate = figures["programs"] * figures["tokens"] / figures["roofline_seconds"]
    return {"tokens_per_second": rate, **figures}


def test_csv_has_a_line_for_each_row_and_nothing_nested():
    lines = list(csv.DictReader(sweep_csv(KEPT).splitlines()))
    assert len(lines) == len(KEPT)
    for line, kept in zip(lines, KEPT, strict=True):
        assert (line["model"], line["status"]) == (kept["model"], kept["status"])
        assert json.loads(line["settings"]) == kept["settings"]
        if kept["status"] == "ok":
            assert float(line["tokens_per_second_per_chip"]) == rate_per_chip(kept)
            assert (
                float(line["all-reduce count"])
                == kept["collectives"].get("all-reduce", {"count": 0})["count"]
            )
        else:
            assert line["reason"] == kept["reason"] and line["peak_bytes"] == ""


def test_the_best_is_the_fastest_that_fits_and_the_line_says_why():
    split = row("split", programs=2, rows=80, tokens=80, roofline_seconds=0.0125, axes={"t": 4})
    huge = row("huge", rows=99, tokens=99, fits=False, peak_bytes=99e9)
    refused = {**row("odd"), "status": "refused", "reason": "7 heads"}
    (line,) = best_lines([row("own"), split, huge, refused])
    assert line == (
        "decode, M on mesh-8: split, 1.60 times own: 2.00 times the rows (20 a chip) in 1.25 times "
        "the time; both memory bound; huge needs 99.0 GB a chip, more than there is; odd is refused"
    )


def test_equal_rates_are_told_apart_by_messages_that_do_not_hide_and_by_memory():
    quiet = row("quiet", network_seconds=0.0, peak_bytes=9e9)
    (line,) = best_lines([row("own"), quiet])
    assert "quiet, as fast as own (both memory bound) where messages hide, 1.10 times where" in line
    assert line.endswith("9.0 GB a chip against 8.0")
    small = row("small", peak_bytes=7e9)
    assert next(best_lines([row("own"), small])).startswith("decode, M on mesh-8: small, as fast")


def test_drafts_gain_above_what_a_pass_takes_and_the_line_says_how_much_at_most():
    drafted = row("own", phase="drafted", tokens=40, roofline_seconds=0.016, limit="compute")
    other = row("split", phase="drafted", tokens=40)  # its decode is not in the sweep
    (line,) = draft_lines([row("own"), drafted, other])
    assert line == (
        "M on mesh-8, own: a pass of 4 positions takes as long as 1.60 steps (compute bound), so "
        "drafts gain above 1.60 tokens a pass, 2.50 times at most"
    )


def test_passes_with_longer_drafts_are_no_rivals_of_those_with_shorter():
    """Their rate is what they make if every draft is taken, so the longest would always win."""
    short = row("own", phase="drafted", settings={"slots": None, "drafts": 3})
    long = row("split", phase="drafted", settings={"slots": None, "drafts": 7})
    assert not list(best_lines([short, long]))
    assert len(list(best_lines([short, {**long, "settings": short["settings"]}]))) == 1


@pytest.mark.parametrize(
    "changes", [{"settings": {"slots": 4}}, {"measured": True}, {"xla_flags": "--xla_a=1"}]
)
def test_rows_of_other_sweeps_in_the_same_file_are_not_compared(changes):
    """A bound beside a time, or other lengths, say nothing of tables or drafts."""
    drafted = row("own", phase="drafted", tokens=40, settings={"slots": None, "drafts": 3})
    assert len(list(draft_lines([row("own"), drafted]))) == 1
    assert not list(draft_lines([row("own", **changes), drafted]))
    assert list(best_lines([row("own"), row("own", **changes)])) == []
    assert len(list(best_lines([row("own"), row("split"), row("own", **changes)]))) == 1


def test_on_policy_steps_are_ranked_by_all_their_parts():
    """Equal rates: what sends less beside the work of both parts is better."""
    parts = {"phase": "on-policy", "programs": 1, "rows": 64, "tokens": 64, "limit": "sampling"}
    parts |= {"roofline_seconds": 2.0, "busy_seconds": 2.0, "adapter_seconds": 0.1}
    own, quiet = row("own", **parts, network_seconds=1.0), row("quiet", **parts)
    (line,) = best_lines([own, quiet])
    assert line.startswith(
        "on-policy, M on mesh-8: quiet, as fast as own (both sampling bound) where messages hide, "
        "1.48 times where none does"
    )
    picture = pareto_plot([own, row("own")])
    assert "on-policy" in picture and "decode" in picture


def test_one_table_alone_and_nothing_that_fits_have_no_best():
    assert list(best_lines([row("own")])) == []
    assert list(best_lines([row("a", fits=False), row("b", fits=False)])) == []


def test_what_another_beats_in_both_is_not_on_the_front():
    slim = row("slim", peak_bytes=2e9, roofline_seconds=0.02)
    own, fat = row("own"), row("fat", peak_bytes=9e9, roofline_seconds=0.011)
    assert [r["table"] for r in pareto_front([fat, own, slim])] == ["slim", "own"]


def test_the_pareto_picture_leaves_out_what_does_not_fit():
    picture = pareto_plot([row("own"), row("slim", mesh="mesh-4", chip="small", peak_bytes=2e9),
                           row("huge", mesh="mesh-99", fits=False)])  # fmt: skip
    assert picture.startswith("<?xml") and "mesh-8" in picture and "mesh-4" in picture
    assert "mesh-99" not in picture and "huge" not in picture
    assert "Qwen3-32B" in pareto_plot(KEPT)


def test_bounds_and_times_of_the_same_program_stand_side_by_side(tmp_path, capsys):
    timed = {**row("own"), "measured": True, "measured_seconds": 0.025, "compiled_for": "chip"}
    other = {**timed, "settings": {"slots": 4}}
    pairs = matched([row("own"), row("split")], [timed, other])
    assert [(a["table"], b["measured_seconds"]) for a, b in pairs] == [("own", 0.025)]
    assert comparison_table(pairs).row_count == 1
    planned, measured = tmp_path / "planned.json", tmp_path / "measured.json"
    planned.write_text(json.dumps({"rows": [row("own")]}))
    measured.write_text(json.dumps({"rows": [timed]}))
    assert print_comparison(planned, measured) == 1
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "memory 10 25 2.50" in shown


def test_what_cannot_be_compared_is_refused(tmp_path):
    planned, measured = tmp_path / "planned.json", tmp_path / "measured.json"
    planned.write_text(json.dumps({"rows": [row("own")]}))
    with pytest.raises(InputError, match=r"measured\.json: no such file"):
        print_comparison(planned, measured)
    measured.write_text(json.dumps({"rows": [row("own")]}))
    with pytest.raises(InputError, match="no row has been measured; write it with --measure"):
        print_comparison(planned, measured)
    timed = {**row("split"), "measured_seconds": 0.025}
    measured.write_text(json.dumps({"rows": [timed]}))
    with pytest.raises(InputError, match="no row in common"):
        print_comparison(planned, measured)
