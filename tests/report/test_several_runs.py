"""One page on several runs: side by side, against the first, and what differs."""

import re
from dataclasses import replace

import pytest

from tests.cli.test_cli import exit_code
from tests.report.example_run import recipe, write_run
from tests.report.test_report import Page, words
from thinksafe_jax.config import to_yaml
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.report import write_report, write_several
from thinksafe_jax.report.short_names import short_names

EVIL = "a<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/mini", "runs/mini_kl"], ["mini", "mini_kl"]),
        (["a/runs/mini", "b/runs/mini"], ["a/runs/mini", "b/runs/mini"]),
        (["x/a/mini", "x/b/mini", "x/c/big"], ["a/mini", "b/mini", "big"]),
        (["runs/mini:before", "runs/mini"], ["mini:before", "mini"]),
        (["runs/mini", "mini"], ["runs/mini", "mini"]),
        (["gs://b/x/run", "s3://b/x/run"], ["gs://b/x/run", "s3://b/x/run"]),
        (["runs/mini", "runs/mini"], ["mini", "mini"]),
    ],
)
def test_names_are_short_and_stay_apart(paths, names):
    assert short_names(paths) == names


@pytest.fixture
def pages(tmp_path):
    """(a run, another that was trained longer, the page)."""
    first, other = (write_run(tmp_path / name, rows=12) for name in ("short", "long"))
    longer = replace(recipe(), name=EVIL.replace("/", ""))
    longer = replace(longer, training=replace(longer.training, epochs=7))
    (other / "config.yaml").write_text(to_yaml(longer), encoding="utf-8")
    return first, other, tmp_path / "page.html"


@pytest.mark.slow
def test_runs_stand_side_by_side_and_against_the_first(pages):
    first, other, out = pages
    write_several([first, other], out)
    html = out.read_text(encoding="utf-8")
    text = words(html)
    assert "Side by side" in text and "Against short, problem by problem" in text
    assert "long harmful attack success" in text and "12 " in text
    assert re.search(r"training\.epochs 3 7 ", text.replace(" epochs", "epochs"))
    assert "long: Mini" not in text and "short: Mini" not in text  # both have the same note
    assert text.count("Mini is a toy world") == 1
    assert html.count("<figcaption") == html.count("<svg") == 1
    assert '<th class="num">before</th>' in html  # one column: the same before training
    policy = next(a["content"] for t, a in Page(html).tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "<script" not in html


@pytest.mark.slow
def test_runs_without_evaluation_or_of_other_questions_are_said(pages, tmp_path):
    first, _, out = pages
    begun = write_run(tmp_path / "begun", rows=4, evaluated=False)
    write_several([first, begun], out)
    assert "begun: " in words(out.read_text()) and "no finished evaluation" in out.read_text()
    with pytest.raises(ConfigError, match="two or more"):
        write_several([first], out)
    with pytest.raises(InputError, match="no run directory"):
        write_several([first, tmp_path / "nothing"], out)


@pytest.mark.slow
def test_more_runs_than_colours_have_bars_of_their_own(pages, tmp_path):
    first, other, out = pages
    more = [write_run(tmp_path / f"run-{number}", rows=12) for number in range(3)]
    write_several([first, other, *more], out)
    html = out.read_text(encoding="utf-8")
    assert all(f"var(--{hue})" in html for hue in ("after", "benign", "note", "harmful"))


@pytest.mark.slow
def test_the_pages_of_single_runs_are_left_alone(pages):
    first, other, out = pages
    write_report(first)
    before = (first / "report/report.html").read_bytes()
    write_several([first, other], out)
    assert (first / "report/report.html").read_bytes() == before
    assert not (other / "report").exists()


@pytest.mark.slow
def test_the_command_takes_several_runs_and_says_where_the_page_goes(pages, capsys, monkeypatch):
    first, other, out = pages
    monkeypatch.setenv("COLUMNS", "200")
    assert exit_code(monkeypatch, "report", first, other) == 2
    assert "give it as --out FILE" in capsys.readouterr().err
    assert exit_code(monkeypatch, "report", first, "seed=3", "--out", out) == 2
    assert exit_code(monkeypatch, "report", first, other, "--out", out) == 0
    assert "Side by side" in out.read_text() and str(out) in capsys.readouterr().out
