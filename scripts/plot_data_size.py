"""Draws docs/mini_data_size.png from the kept results: python scripts/plot_data_size.py"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinksafe_jax import figures

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "scripts/bench/results/mini_data_size.json"
PICTURE = REPOSITORY / "docs/mini_data_size.png"
SIZES = (10, 30, 100, 400)  # prompts
# hues of Okabe and Ito; each method a little to the side, so that intervals do not hide each other
METHODS = {
    "ThinkSafe": ("#0072b2", "o", 0.95),
    "Without steering": ("#d55e00", "s", 1.0),
    "Teacher, same family": ("#009e73", "^", 1.05),
}
PANELS = {"harm": "Harm, %: lower is better", "reasoning": "Reasoning, % right: higher is better"}


def measures(results: Mapping[str, Any], name: str, measure: str) -> Mapping[str, float]:
    """{value, low, high} of a method, in per cent."""
    method = next(method for method in results["methods"] if method["name"] == name)
    return {key: 100 * method["measures"][measure][key] for key in ("value", "low", "high")}


def draw(figure: Figure, results: Mapping[str, Any]) -> None:
    """A panel for each measure: prompts on a log scale, a line for each method."""
    panels = figure.subplots(1, len(PANELS))
    for axes, (measure, title) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, results, measure)
        axes.set_title(title, loc="left", fontsize=10)
    panels[0].legend(frameon=False, fontsize=9)
    figure.tight_layout()


def _panel(axes: Axes, results: Mapping[str, Any], measure: str) -> None:
    untouched = measures(results, "Initial", measure)
    axes.axhspan(untouched["low"], untouched["high"], color="#dddddd", lw=0)
    axes.axhline(untouched["value"], color="#888888", lw=1, ls="--", label="untouched student")
    for method, (colour, marker, aside) in METHODS.items():
        at = [measures(results, f"{method}, {size} prompts", measure) for size in SIZES]
        values = [point["value"] for point in at]
        ends = [
            [point["value"] - point["low"] for point in at],
            [point["high"] - point["value"] for point in at],
        ]
        places = [size * aside for size in SIZES]
        axes.errorbar(
            places, values, yerr=ends, color=colour, marker=marker, ms=4, lw=1.3, label=method
        )
    axes.set_xscale("log")
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.set_xlabel("prompts, log scale")
    axes.spines[["top", "right"]].set_visible(False)
    if measure == "harm":
        axes.set_ylim(0)


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PICTURE.write_bytes(figures.png(lambda figure: draw(figure, results), (9.0, 3.8), 120))
    print(PICTURE)


if __name__ == "__main__":
    main()
