"""Plots of analyses: dots with intervals, and acceptance with against without steering."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thinksafe_jax import figures
from thinksafe_jax.intervals import expected_acceptance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#5b6570"


def interval_plot(rates: Mapping[str, Mapping], xlabel: str) -> str:
    """A dot and its interval per name, as an SVG document."""

    def draw(axes: "Axes") -> None:
        shown = [(name, r) for name, r in rates.items() if r["value"] is not None]
        for y, (_, rate) in enumerate(shown):
            low = rate["value"] if rate.get("low") is None else rate["low"]
            high = rate["value"] if rate.get("high") is None else rate["high"]
            axes.plot([low, high], [y, y], color=BLUE, linewidth=1.4)
            axes.plot(rate["value"], y, "o", color=BLUE, ms=5)
            axes.annotate(
                f"{rate['value']:.3g}", (rate["value"], y), xytext=(0, 5),
                textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.8)
        axes.set_xlabel(xlabel)
        axes.grid(axis="x", alpha=0.3)

    return _svg(draw, 0.9 + 0.42 * max(1, len(rates)))


def acceptance_plot(prompts: Sequence[Mapping], labels: Mapping[str, Mapping]) -> str:
    """Each prompt's acceptance with steering over without, and the tilt of the estimated omega."""

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        alpha = np.linspace(0, 1, 101)
        for label, colour in zip(labels, (ORANGE, BLUE, GREY), strict=False):
            of_label = [p for p in prompts if p["label"] == label]
            x, y = ([p[k]["value"] for p in of_label] for k in ("alpha_ref", "alpha_source"))
            axes.plot(x, y, "o", color=colour, alpha=0.5, ms=5, label=label)
            omega = labels[label]["omega"]["value"]
            if omega:
                tilted = [expected_acceptance(share, omega) for share in alpha]
                axes.plot(alpha, tilted, color=colour, linewidth=1.2, label=f"ω = {omega:.3g}")
        axes.set(xlabel="accepted without steering", ylabel="accepted with steering")
        axes.legend(frameon=False, fontsize=8)

    return _svg(draw, 3.6)


def _svg(draw: Callable[["Axes"], None], height: float) -> str:
    return figures.svg(
        lambda figure: draw(figure.add_subplot()), (5.2, height), "analysis", {"font.size": 9}
    )
