"""The pages of the studies that were run say what their kept results say."""

import json
import re

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.studies import study_page, study_plots

STUDIES = ("mini_study", "mini_data_size")
RESULTS = {
    study: json.loads((REPOSITORY / f"scripts/bench/results/{study}.json").read_text())
    for study in STUDIES
}
PAGES = {study: (REPOSITORY / f"docs/{study}.md").read_text() for study in STUDIES}


def rate(estimate):
    return "{:.1f} ({:.1f} to {:.1f})".format(
        *(100 * estimate[k] for k in ("value", "low", "high"))
    )


@pytest.mark.parametrize(
    ("study", "name"),
    [(study, m["name"]) for study in STUDIES for m in RESULTS[study]["methods"] if m["measures"]],
)
def test_a_methods_row_has_its_rates_and_costs(study, name):
    method = next(m for m in RESULTS[study]["methods"] if m["name"] == name)
    measures, cost = method["measures"], method["cost"]
    chosen = RESULTS[study]["rule"] != ""
    setting = [method["setting"].removeprefix("learning_rate=")] if chosen else []
    rates = [rate(measures[measure]) for measure in ("harm", "over_refusal", "reasoning")]
    unparsed = [f"{100 * measures[m]['value']:.1f}" for m in ("unparsed", "unparsed_harmless")]
    row = ["", name, *setting, *rates, ", ".join(unparsed)]
    if cost:
        thousands = "{:,.0f}" if chosen else "{:,.1f}"
        row += [thousands.format(cost["sampled_tokens"] / 1000), f"{cost['guard_calls']:,.0f}"]
        row += [f"{cost['steps']:,.0f}", f"{sum(cost['flops'].values()) / 1e12:.2f}"]
    assert " | ".join(row).strip() in PAGES[study]


@pytest.mark.parametrize("study", STUDIES)
def test_the_kept_page_has_the_tables_of_the_kept_results(study, monkeypatch):
    for name in ("plane_plot", "measure_plot", "cost_plot", "curves_plot"):
        monkeypatch.setattr(study_plots, name, lambda *_: None)
    kept = (REPOSITORY / f"docs/{study}.html").read_text()
    made = study_page.render(RESULTS[study])
    for tag in ("td", "dd"):
        cells = [re.findall(rf"<{tag}\b.*?</{tag}>", page, re.DOTALL) for page in (kept, made)]
        assert cells[0] == cells[1] and len(cells[0]) > 4


@pytest.mark.parametrize("study", STUDIES)
def test_the_page_shows_no_figure_of_the_validation_split(study):
    for method in RESULTS[study]["methods"]:
        for setting in method["settings"]:
            assert set(setting) == {"name", "overrides", "status", "broken", "unsure"}
