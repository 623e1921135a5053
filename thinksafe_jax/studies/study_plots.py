"""The figures of a study's page, from results.json alone. Methods have one number everywhere."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from thinksafe_jax.report import COLOURS, figure_of
from thinksafe_jax.studies.study_file import INITIAL
from thinksafe_jax.studies.units import STAGES

STAGE_COLOURS = {"sample": "after", "guard": "benign", "train": "harmful"}
_ROW = 0.34  # inches of a method in a list of methods
_ROOT_TICKS = (0, 1, 5, 10, 20, 40, 60, 80, 100)  # per cent
_NEAR = 11.0  # points between numbers on the plane
_BESIDE = 13.0  # points from a mark to its number, within which one sees whose number it is
# points from a mark to its number: near ones first, further ones where many methods lie together
_OFFSETS = [
    (8.0, 5.0), (-8.0, 5.0), (8.0, -7.0), (-8.0, -7.0), (0.0, 10.0), (0.0, -12.0),
    (17.0, 7.0), (-17.0, 7.0), (17.0, -9.0), (-17.0, -9.0), (9.0, 18.0), (-9.0, 18.0),
    (9.0, -20.0), (-9.0, -20.0),
]  # fmt: skip


def plane_plot(results: Mapping) -> Markup | None:
    """Reasoning (right is better) against harm (down is better), a numbered point a method.

    The axis of harm is that of its square root: methods that work lie near 0.
    """
    points = [
        (number, method, method["measures"]["reasoning"], method["measures"]["harm"])
        for number, method in enumerate(results["methods"])
        if _is_measured(method, "reasoning") and _is_measured(method, "harm")
    ]
    if not points:
        return None

    def draw(axes: Axes) -> None:
        axes.set_yscale("function", functions=(_root, _square))
        axes.grid(alpha=0.4)
        for _, method, x, y in points:
            colour = _colour(results, method)
            _published_point(axes, method, x, y)
            axes.errorbar(
                100 * x["value"], 100 * y["value"],
                xerr=_ends(x), yerr=_ends(y), fmt="o", color=colour, ms=5, elinewidth=0.9,
                alpha=0.9,
            )  # fmt: skip
        papers = [method["published"] or {} for _, method, _, _ in points]
        across = [x[end] for _, _, x, _ in points for end in ("low", "high")]
        across = [100 * value for value in [*across, *_of(papers, "reasoning")]]
        left, right = min(across) - 1, min(max(across) + 1, 101.5)
        high = 100 * max([y["high"] for _, _, _, y in points] + _of(papers, "harm"))
        axes.set(xlabel="reasoning, % right", xlim=(left, right), ylim=(0, min(100, high * 1.1)))
        axes.set_ylabel("harm, %, square-root scale", color=COLOURS["muted"])
        axes.tick_params(axis="y", labelcolor=COLOURS["muted"])
        axes.set_yticks([tick for tick in _ROOT_TICKS if tick <= high * 1.1])
        _number_points(axes, points)

    return figure_of("plane", 4.4, draw, "Harm against reasoning, a point a method")


def _of(papers: Sequence[Mapping], measure: str) -> list[float]:
    """The paper's figures of a measure, where there are any."""
    return [paper[measure] for paper in papers if measure in paper]


def _root(values: Any) -> Any:
    return abs(values) ** 0.5


def _square(values: Any) -> Any:
    return values**2


def _is_measured(method: Mapping, measure: str) -> bool:
    return method["measures"].get(measure, {}).get("value") is not None


def _colour(results: Mapping, method: Mapping) -> str:
    if method["name"] == INITIAL:
        return COLOURS["before"]
    return COLOURS["after"] if method["name"] == results["reference"] else COLOURS["ink"]


def _ends(estimate: Mapping) -> list[list[float]]:
    """Lengths of an error bar below and above, in per cent."""
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _published_point(axes: Axes, method: Mapping, x: Mapping, y: Mapping) -> None:
    """The paper's point in grey, and a line to the study's own."""
    paper = method["published"] or {}
    if "reasoning" in paper and "harm" in paper:
        at = 100 * paper["reasoning"], 100 * paper["harm"]
        axes.plot([at[0], 100 * x["value"]], [at[1], 100 * y["value"]], color=COLOURS["line"], lw=1)
        axes.plot(*at, "D", mfc="none", mec=COLOURS["muted"], ms=4)


def _number_points(axes: Axes, points: Sequence[tuple[int, Mapping, Mapping, Mapping]]) -> None:
    """Each point's number beside it, where it is furthest from the numbers before.

    A number that had to move aside is joined to its point by a line.
    """
    axes.figure.canvas.draw()  # the layout decides where a point lies on the paper
    to_paper = axes.transData.transform
    placed: list[tuple[float, float]] = []
    scale = 72 / axes.figure.dpi
    marks = [
        tuple(float(v) * scale for v in to_paper((100 * x["value"], 100 * y["value"])))
        for _, _, x, y in points
    ]
    for (number, method, x, y), mark in zip(points, marks, strict=True):
        others = [*placed, *(m for m in marks if m != mark)]
        best = max(_OFFSETS, key=lambda o: min(_NEAR, _distance(mark, o, others)))
        placed.append((mark[0] + best[0], mark[1] + best[1]))
        weight = "bold" if method["name"] == INITIAL else "normal"
        moved = math.hypot(*best) > _BESIDE
        line = {"arrowstyle": "-", "lw": 0.5, "color": COLOURS["muted"], "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            str(number), (100 * x["value"], 100 * y["value"]), xytext=best, ha="center",
            textcoords="offset points", fontsize=7.5, fontweight=weight, annotation_clip=False,
            arrowprops=line if moved else None,
        )  # fmt: skip


def _distance(
    mark: tuple[float, ...], offset: tuple[float, float], others: Sequence[tuple[float, ...]]
) -> float:
    at = mark[0] + offset[0], mark[1] + offset[1]
    return min((math.dist(at, other) for other in others), default=_NEAR)


def measure_plot(results: Mapping, measure: str, title: str) -> Markup | None:
    """A measure of every method: mean, interval, and a faint dot a seed; the paper's in grey."""
    rows = [
        (number, method, method["measures"][measure])
        for number, method in enumerate(results["methods"])
        if _is_measured(method, measure)
    ]
    if not rows:
        return None
    ends = [100 * e[k] for _, _, e in rows for k in ("low", "high")]
    papers = [
        100 * m["published"][measure] for _, m, _ in rows if measure in (m["published"] or {})
    ]
    low, high = min([*ends, *papers]), max([*ends, *papers])
    span = max(high - low, 1.0)

    def draw(axes: Axes) -> None:
        initial = next((e for _, m, e in rows if m["name"] == INITIAL), None)
        if initial is not None:
            axes.axvline(100 * initial["value"], color=COLOURS["line"], lw=1, ls=(0, (3, 2)))
        for line, (number, method, estimate) in enumerate(rows):
            _measure_row(axes, line, f"{number}  {method['name']}", method, estimate, measure)
            axes.lines[-1].set_color(_colour(results, method))
        axes.set(ylim=(len(rows) - 0.45, -0.75), yticks=[])
        axes.spines[["left"]].set_visible(False)
        if measure == "reasoning":
            axes.set(xlim=(low - 0.03 * span, high + 0.2 * span), xlabel="per cent")
            inside = [t for t in MaxNLocator(5).tick_values(low, high) if low - 5 <= t <= 100]
            axes.set_xticks(inside)
        else:  # methods that work lie near 0
            axes.set_xscale("function", functions=(_root, _square))
            axes.set(xlim=(0, 1.4 * high + 0.5), xlabel="per cent, square-root scale")
            axes.set_xticks([tick for tick in _ROOT_TICKS if tick <= high])
        axes.tick_params(axis="x", labelcolor=COLOURS["muted"])

    return figure_of(measure.replace("_", "-"), 0.6 + _ROW * len(rows), draw, title)


def _measure_row(
    axes: Axes, line: int, name: str, method: Mapping, estimate: Mapping, measure: str
) -> None:
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    axes.text(
        0.0, line - 0.36, name, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5
    )
    axes.plot([low, high], [line, line], color=COLOURS["ink"], lw=1.1)
    seeds = [100 * seed for seed in estimate["seeds"]]
    axes.plot(seeds, [line + 0.18] * len(seeds), ".", color=COLOURS["muted"], ms=2.5)
    if measure in (method["published"] or {}):
        axes.plot(
            100 * method["published"][measure], line, "D", mfc="none", mec=COLOURS["muted"], ms=4
        )
    axes.text(
        1.0, line, f"{value:.1f}", transform=axes.get_yaxis_transform(), va="center", ha="right"
    )
    axes.plot(value, line, "o", ms=4.5)


def cost_plot(results: Mapping, what: str, title: str) -> Markup | None:
    """FLOPs or seconds of a method's run by stage, on a log scale.

    Args:
        what: flops | seconds.
    """
    rows = [
        (number, method["name"], method["cost"][what])
        for number, method in enumerate(results["methods"])
        if method["cost"] and any(method["cost"][what].values())
    ]
    if not rows:
        return None
    values = [v for _, _, stages in rows for v in stages.values() if v > 0]
    least = 10 ** math.floor(math.log10(min(values)))

    def draw(axes: Axes) -> None:
        for line, (number, name, stages) in enumerate(rows):
            axes.text(
                0.0, line - 0.36, f"{number}  {name}", va="center", fontsize=7.5,
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
            for place, stage in enumerate(STAGES):
                if stages[stage] > 0:
                    colour = COLOURS[STAGE_COLOURS[stage]]
                    width = stages[stage] - least if stages[stage] > least else stages[stage]
                    y = line - 0.1 + 0.17 * place
                    axes.barh(y, width, left=least, height=0.15, color=colour)
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlim=(least, max(values) * 2), ylim=(len(rows) - 0.4, -0.75))
        axes.set_yticks([])
        axes.spines[["left"]].set_visible(False)
        axes.tick_params(axis="x", labelcolor=COLOURS["muted"])
        for number, stage in enumerate(STAGES):
            axes.text(
                0.5 + 0.17 * number, 1.0, f"■ {stage}", transform=axes.transAxes, fontsize=7.5,
                color=COLOURS[STAGE_COLOURS[stage]], va="bottom",
            )  # fmt: skip

    return figure_of(f"cost-{what}", 0.75 + 0.42 * len(rows), draw, title)


def curves_plot(results: Mapping) -> Markup | None:
    """Training loss of every method by step: seeds faint, their mean bold."""
    trained = [
        (number, method)
        for number, method in enumerate(results["methods"])
        if any(method["curves"].values())
    ]
    if not trained:
        return None
    lines = math.ceil(len(trained) / 2)

    def draw(first: Axes) -> None:
        figure = first.figure
        first.remove()
        panels = figure.subplots(lines, 2, squeeze=False)
        for place, axes in zip(product(range(lines), range(2)), panels.ravel(), strict=True):
            index = 2 * place[0] + place[1]
            if index >= len(trained):
                axes.axis("off")
                continue
            number, method = trained[index]
            _curve(axes, method["curves"])
            axes.set_title(f"{number}  {method['name']}", fontsize=6.8, loc="left", pad=3)

    return figure_of("curves", 0.2 + 1.15 * lines, draw, "Training loss by optimiser step")


def mean_curve(curves: Sequence[Sequence]) -> tuple[list[float], list[float]]:
    """(steps, mean loss) over seeds, up to the last step that all have.

    Curves are thinned, each at steps of its own: between two of them a loss lies on a line.
    """
    last = min(curve[-1][0] for curve in curves)
    steps = [step for step, _ in curves[0] if step <= last]
    losses = [np.interp(steps, [x for x, _ in curve], [y for _, y in curve]) for curve in curves]
    return steps, np.mean(losses, axis=0).tolist()


def _curve(axes: Axes, curves: Mapping[str, Sequence]) -> None:
    drawn = [curve for curve in curves.values() if curve]
    for curve in drawn:
        axes.plot(*zip(*curve, strict=True), color=COLOURS["after"], alpha=0.3, lw=0.7)
    axes.plot(*mean_curve(drawn), color=COLOURS["after"], lw=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(labelsize=6.5, labelcolor=COLOURS["muted"])
