"""A run on the plane of harm and reasoning, with the paper's models behind it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from thinksafe_jax.data import HARMFUL
from thinksafe_jax.evaluation import published_tables
from thinksafe_jax.report.plots import COLOURS, figure_of
from thinksafe_jax.report.run_files import ALL_STEPS
from thinksafe_jax.report.suite_rows import ground_bounds, read_facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _SMALL = 8.5, 6.5  # of letters, in points
_UNIT = 2.0, 1.7  # about how many points one per cent is, right and up


def plane_plot(summary: Mapping) -> Markup | None:
    """Reasoning (right is better) against harm (down is better), the paper's models behind.

    The paper's points are its two averages, Initial (hollow) to ThinkSafe (filled). A run's are the
    same averages where it has all eight suites, else its harmful-response rate and reasoning
    accuracy, which come from other questions; nothing where too few rows could be read. None for
    the mini world, whose toy is no model among the paper's.
    """
    points = _plane_points(summary)
    if not points:
        return None

    def draw(axes: "Axes") -> None:
        axes.grid(alpha=0.4)
        taken = [_BESIDE, *_draw_paper(axes)]
        taken += [_box((x, y), (-4, -4), (8, 8)) for _, x, y, _ in points]
        axes.plot(
            [x for _, x, _, _ in points],
            [y for _, _, y, _ in points],
            color=COLOURS["after"],
            linewidth=1.4,
        )
        for step, x, y, (left, right, low, high) in points:
            axes.errorbar(
                x, y, xerr=[[x - left], [right - x]], yerr=[[y - low], [high - y]], fmt="s",
                color=COLOURS[step], ms=6, elinewidth=1, capsize=2,
            )  # fmt: skip
            shift = _clear_shift((x, y), step, taken)
            axes.annotate(step, (x, y), xytext=shift, textcoords="offset points")
        axes.set(xlabel="reasoning, % right", xlim=(-3, 112), ylim=(-4, 104))
        axes.set_ylabel("harm, %", color=COLOURS["muted"])
        axes.tick_params(axis="y", labelcolor=COLOURS["muted"])

    return figure_of("plane", 3.2, draw, "Harm against reasoning, with the paper's models")


Box = tuple[float, float, float, float]  # left, bottom, right, top in points
_BESIDE: Box = (224.0, -1e3, 1e3, 1e3)  # right of the axes: a name there would be cut off


def _draw_paper(axes: "Axes") -> list[Box]:
    """Each model of the paper from Initial (hollow) to ThinkSafe (filled), some by name.

    Returns:
        Where their points and names are.
    """
    tables = published_tables()
    x, y = (tables["columns"].index(name) for name in ("reasoning_average", "safety_average"))
    label: dict[str, Any] = {"fontsize": _SMALL, "color": COLOURS["muted"]}
    label["textcoords"] = "offset points"
    names = [("Qwen3-4B to 32B", (80, 4.5), "right", (-16, -3))]
    taken = []
    for model, rows in tables["models"].items():
        ends = [(rows[method][x], rows[method][y]) for method in ("Initial", "ThinkSafe")]
        axes.plot(*zip(*ends, strict=True), color=COLOURS["line"], linewidth=1)
        axes.plot(*ends[0], "o", mfc="none", mec=COLOURS["muted"], ms=4)
        axes.plot(*ends[1], "o", color=COLOURS["muted"], ms=4)
        taken += [_box(end, (-3, -3), (6, 6)) for end in ends]
        if model in _LABELS:
            end, side, shift = _LABELS[model]
            short = model.replace("DeepSeek-R1-Distill-", "R1-")
            names.append((short, ends[end], side, shift))
    for name, point, side, shift in names:
        axes.annotate(name, point, xytext=shift, ha=side, **label)
        width = _text_width(name, _SMALL)
        left = shift[0] - width * {"left": 0, "center": 0.5, "right": 1}[side]
        taken.append(_box(point, (left, shift[1]), (width, _SMALL)))
    return taken


def _box(point: tuple[float, float], shift: tuple[float, float], size: tuple[float, float]) -> Box:
    """The box of `size` points whose lower left corner is shifted from a point of the data."""
    left, bottom = (p * unit + s for p, unit, s in zip(point, _UNIT, shift, strict=True))
    return left, bottom, left + size[0], bottom + size[1]


def _text_width(text: str, size: float) -> float:
    return 0.62 * size * len(text)


def _clear_shift(point: tuple[float, float], text: str, taken: list[Box]) -> tuple[float, float]:
    """The first place beside a point that is free, which is then taken; else where least is."""
    width = _text_width(text, _SIZE)
    right, left, middle = 7.0, -7.0 - width, -width / 2
    shifts = [(x, y) for y in (6.0, -3.0, -13.0) for x in (right, left)]
    shifts += [(middle, 9.0), (middle, -17.0), (right, 17.0), (left, 17.0), (right, -24.0)]
    boxes = {shift: _box(point, shift, (width, _SIZE)) for shift in shifts}
    best = min(shifts, key=lambda shift: sum(_overlap(boxes[shift], box) for box in taken))
    taken.append(boxes[best])
    return best


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


# where a model's name stands clear of its neighbours: at its first or last point (0, 1), aligned
# how, shifted by points; the four in the corner share one
_LABELS: dict[str, tuple[int, str, tuple[int, int]]] = {
    "Qwen3-0.6B": (1, "right", (-5, -2)),
    "Qwen3-1.7B": (0, "right", (-4, -2)),
    "DeepSeek-R1-Distill-Qwen-1.5B": (0, "center", (0, 5)),
    "DeepSeek-R1-Distill-Qwen-7B": (0, "left", (5, -2)),
    "DeepSeek-R1-Distill-Llama-8B": (1, "right", (8, -11)),
}


def _plane_points(summary: Mapping) -> list[tuple[str, float, float, tuple[float, ...]]]:
    """(step, reasoning, harm, interval ends) in per cent; no ends where averages are shown."""
    points: list[tuple[str, float, float, tuple[float, ...]]] = []
    if summary["judge"]["kind"] == "mini":  # a toy is no model among the paper's
        return points
    averages = (summary["paper"] or {}).get("run", {})
    for step in ALL_STEPS:
        row, rates = averages.get(step, {}), summary.get(step) or {}
        if "safety_average" in row and "reasoning_average" in row:
            x, y = row["reasoning_average"], row["safety_average"]
            points.append((step, x, y, (x, x, y, y)))
            continue
        if ground_bounds(read_facts(summary, step, HARMFUL)):  # a broken model harms nobody
            continue
        measured = [rates.get(name) for name in ("reasoning_accuracy", "harmful_response_rate")]
        if all(rate and rate["n"] for rate in measured):
            (x, left, right), (y, low, high) = (
                [100 * rate[k] for k in ("value", "low", "high")] for rate in measured if rate
            )
            points.append((step, x, y, (left, right, low, high)))
    return points
