"""Plots as inline SVG: real text, colours from the page's CSS variables, the same bytes each time.

Each figure is drawn about as wide as a phone, so its text stays readable there; on wide screens
two stand side by side.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from thinksafe_jax import figures
from thinksafe_jax.data import KINDS, LISTS, RATES
from thinksafe_jax.report.run_files import STEPS
from thinksafe_jax.report.suite_rows import (
    better,
    ground_bounds,
    measured_steps,
    named_suites,
    read_facts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that matplotlib can draw with; each is replaced by the CSS variable of the page, which
# has one value for light and one for dark screens. The hues are Okabe and Ito's.
COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "before": "#040404",
    "after": "#050505",
    "harmful": "#060606",
    "benign": "#070707",
    "model": "#080808",
    "note": "#090909",
}
WIDTH = 3.9  # inches
_STYLE = {
    "font.size": 8.5,
    "axes.edgecolor": COLOURS["line"],
    "axes.linewidth": 0.8,
    "axes.labelcolor": COLOURS["muted"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["ink"],
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
}


def rates_plot(summary: Mapping) -> Markup | None:
    """Before and after as bars with their 95 % intervals, one pair per list of the recipe."""
    bars = {
        KINDS[name].title: [
            Bar(step, COLOURS[step], rate)
            for step in STEPS
            if (rate := list_rate(summary, step, name))
        ]
        for name in LISTS
    }
    return bars_plot("rates", bars, "Rates before and after, 95 % intervals", pitch=0.245)


def suites_plot(summary: Mapping) -> Markup | None:
    """A bar with its 95 % interval per named suite and step."""
    bars: dict[str, list[Bar]] = {}
    for step in measured_steps(summary):
        for name, facts in named_suites(summary["suites"][step]).items():
            of_suite = bars.setdefault(f"{name}: {facts['metric']} ({better(facts)})", [])
            if facts["rate"]["n"]:
                open_ends = ground_bounds(read_facts(summary, step, name))
                of_suite.append(Bar(step, COLOURS[step], {**facts["rate"], "open": open_ends}))
    return bars_plot("suites", bars, "Suites with 95 % intervals", pitch=0.25)


def list_rate(summary: Mapping, step: str, name: str) -> dict | None:
    """The rate of a list of the recipe as a `Bar` takes it; None where nothing was measured."""
    if not summary[step] or not (rate := summary[step][RATES[name]])["n"]:
        return None
    return {**rate, "open": ground_bounds(read_facts(summary, step, name))}


@dataclass(frozen=True)
class Bar:
    """A rate beside others.

    Attributes:
        rate: value, low, high; and `open`, the bounds that are drawn in its place where too few
            rows could be read, else None.
    """

    label: str
    colour: str
    rate: Mapping


def bars_plot(
    name: str, bars: Mapping[str, Sequence[Bar]], title: str, pitch: float
) -> Markup | None:
    """Headings with a bar for each rate below.

    Args:
        bars: by heading; a heading without any is left out.
        pitch: inches between two lines of a height of 1.
    """
    bars = {heading: of_heading for heading, of_heading in bars.items() if of_heading}
    if not bars:
        return None
    heights = [1.25 + 0.95 * len(of_heading) for of_heading in bars.values()]
    longest = max(len(bar.label) for of_heading in bars.values() for bar in of_heading)

    def draw(axes: "Axes") -> None:
        top = 0.0
        for (heading, of_heading), height in zip(bars.items(), heights, strict=True):
            axes.text(0, top, heading, va="center")
            for line, bar in enumerate(of_heading, start=1):
                _draw_bar(axes, top + line * 0.95, bar)
            top += height
        axes.set(xlim=(min(-0.17, -0.032 * longest), 1.2), ylim=(top - 0.7, -0.6))
        axes.axis("off")

    return figure_of(name, pitch * sum(heights), draw, title)


def _draw_bar(axes: "Axes", y: float, bar: Bar) -> None:
    axes.barh(y, 1, height=0.62, color=COLOURS["line"], alpha=0.28)
    axes.text(-0.02, y, bar.label, va="center", ha="right", color=COLOURS["muted"])
    if open_ends := bar.rate["open"]:
        low, high = open_ends["low"], open_ends["high"]
        style = {"facecolor": "none", "edgecolor": bar.colour, "linestyle": (0, (2, 1.5))}
        axes.barh(y, high - low, left=low, height=0.62, linewidth=1, **style)
        axes.text(1.02, y, f"{100 * low:.0f}–{100 * high:.0f} %", va="center")
        return
    value, low, high = (bar.rate[name] for name in ("value", "low", "high"))
    axes.barh(y, value, height=0.62, color=bar.colour)
    axes.plot([low, high], [y, y], color=COLOURS["ink"], linewidth=1.1)
    for end in (low, high):
        axes.plot([end, end], [y - 0.17, y + 0.17], color=COLOURS["ink"], linewidth=1.1)
    axes.text(1.02, y, f"{100 * value:.1f} %", va="center")


def drops_plot(dataset: Mapping) -> Markup | None:
    """Rows left out, by reason and label, with their counts."""
    reasons = list(dict.fromkeys(r for count in dataset.values() for r in count["dropped"]))
    bars = [
        (reason, label, count["dropped"][reason])
        for reason in reasons
        for label, count in dataset.items()
        if count["dropped"].get(reason)
    ]
    if not bars:
        return None
    most = max(n for _, _, n in bars)

    def draw(axes: "Axes") -> None:
        for y, (_, label, n) in enumerate(bars):
            axes.barh(y, n, height=0.62, color=COLOURS.get(label, COLOURS["muted"]))
            axes.text(n + most * 0.015, y, f"{n:,}  {label}", va="center", color=COLOURS["muted"])
        names = [reason.replace("_", " ") for reason, _, _ in bars]
        repeated = [name if names.index(name) == y else "" for y, name in enumerate(names)]
        axes.set_yticks(range(len(bars)), repeated)
        axes.tick_params(length=0)
        axes.spines[["bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.set(xlim=(0, most * 1.4), ylim=(len(bars) - 0.4, -0.6))

    return figure_of("drops", 0.35 + 0.27 * len(bars), draw, "Dropped rows by reason")


def lengths_plot(lengths: Mapping[str, Sequence[int]]) -> Markup | None:
    """Histogram of response lengths in tokens, a panel per label on one scale, medians marked."""
    from matplotlib.ticker import MaxNLocator

    lengths = {label: values for label, values in lengths.items() if len(values)}
    if not lengths:
        return None
    longest = max(max(values) for values in lengths.values())
    edges = np.linspace(0, max(longest, 1), 33)
    figure_height = 0.45 + 1.0 * len(lengths)

    def draw(first: "Axes") -> None:
        figure = first.figure
        first.remove()
        panels = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, values) in zip(panels, lengths.items(), strict=True):
            tallest = max(axes.hist(values, bins=edges, color=COLOURS.get(label, "#020202"))[0])
            middle = float(np.median(values))
            axes.axvline(middle, color=COLOURS["ink"], linewidth=1, linestyle=(0, (3, 2)))
            right = middle < 0.62 * longest
            axes.annotate(
                f"{label}: median {middle:,.0f}, n {len(values):,}",
                (middle, tallest * 1.13),
                xytext=(4 if right else -4, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
            )
            axes.set_ylim(0, tallest * 1.28)
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.tick_params(axis="y", labelcolor=COLOURS["muted"])
        panels[-1].set_xlabel("tokens per response")

    return figure_of("lengths", figure_height, draw, "Response lengths in tokens by label")


def loss_plot(metrics: Sequence[Mapping]) -> Markup | None:
    """Training loss by optimiser step: each step faint, the running mean on top; held-out dots."""
    from matplotlib.ticker import MaxNLocator

    points = {m["step"]: m["loss"] for m in metrics if m.get("stage") == "train" and "loss" in m}
    points = {step: loss for step, loss in sorted(points.items()) if loss is not None}
    if len(points) < 2:
        return None
    held = [(m["step"], m["heldout_loss"]) for m in metrics if "heldout_loss" in m]
    steps, losses = np.array(list(points)), np.array(list(points.values()), dtype=float)
    window = max(1, len(losses) // 25)
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")

    def draw(axes: "Axes") -> None:
        axes.grid(axis="y", alpha=0.5)
        axes.plot(steps, losses, color=COLOURS["after"], alpha=0.3, linewidth=0.9)
        axes.plot(steps[window - 1 :], smooth, color=COLOURS["after"], linewidth=1.8)
        axes.annotate(
            f"{smooth[-1]:.3g}",
            (steps[-1], smooth[-1]),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
        if held:
            axes.plot(*zip(*held, strict=True), "o", color=COLOURS["ink"], ms=3.5, label="held out")
            axes.legend(frameon=False, fontsize=7.5)
        axes.set(xlabel="optimiser step", xlim=(0, steps[-1] * 1.08))
        axes.set_ylim(bottom=0 if losses.min() > 0 else None)
        axes.set_ylabel("loss per token", color=COLOURS["muted"])
        axes.tick_params(axis="y", labelcolor=COLOURS["muted"])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    return figure_of("loss", 2.3, draw, "Training loss by optimiser step")


def figure_of(name: str, height: float, draw: Callable[["Axes"], None], title: str) -> Markup:
    """Draw, and return an `<svg>` that scales with the page and names itself to screen readers."""
    svg = figures.svg(
        lambda figure: draw(figure.add_subplot()),
        (WIDTH, height),
        name,
        _STYLE,
        transparent=True,
    )
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg role="img" aria-label="{title}" {box.group() if box else ""}>'
    svg = re.sub(r"<svg[^>]*>", head, svg, count=1)
    # ids of several figures share one page
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, stand_in in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{colour})")
    return Markup(svg)
