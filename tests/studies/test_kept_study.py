"""docs/mini_study.md says what the kept results of the study say."""

import json
import re

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.studies import study_page, study_plots

RESULTS = json.loads((REPOSITORY / "scripts/bench/results/mini_study.json").read_text())
PAGE = (REPOSITORY / "docs/mini_study.md").read_text()
METHODS = {method["name"]: method for method in RESULTS["methods"]}


def rate(estimate):
    return "{:.1f} ({:.1f} to {:.1f})".format(
        *(100 * estimate[k] for k in ("value", "low", "high"))
    )


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m["measures"]])
def test_a_methods_row_has_its_rates_and_costs(name):
    method = METHODS[name]
    measures, cost = method["measures"], method["cost"]
    setting = method["setting"].removeprefix("learning_rate=")
    rates = [rate(measures[measure]) for measure in ("harm", "over_refusal", "reasoning")]
    unparsed = [f"{100 * measures[m]['value']:.1f}" for m in ("unparsed", "unparsed_harmless")]
    row = ["", name, setting, *rates, ", ".join(unparsed)]
    if cost:
        row += [f"{cost['sampled_tokens'] / 1000:,.0f}", f"{cost['guard_calls']:,.0f}"]
        row += [f"{cost['steps']:,.0f}", f"{sum(cost['flops'].values()) / 1e12:.2f}"]
    assert " | ".join(row).strip() in PAGE


def test_the_kept_page_has_the_tables_of_the_kept_results(monkeypatch):
    for name in ("plane_plot", "measure_plot", "cost_plot", "curves_plot"):
        monkeypatch.setattr(study_plots, name, lambda *_: None)
    kept = (REPOSITORY / "docs/mini_study.html").read_text()
    made = study_page.render(RESULTS)
    for tag in ("td", "dd"):
        cells = [re.findall(rf"<{tag}\b.*?</{tag}>", page, re.DOTALL) for page in (kept, made)]
        assert cells[0] == cells[1] and len(cells[0]) > 4


def test_the_page_shows_no_figure_of_the_validation_split():
    for method in METHODS.values():
        for setting in method["settings"]:
            assert set(setting) == {"name", "overrides", "status", "broken"}
