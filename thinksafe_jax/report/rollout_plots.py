"""Curves of an on-policy run: what its rollouts were, step by step."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from thinksafe_jax.report.plots import COLOURS, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# panel -> (title, series: name of the metric -> (label, colour)); a series that is not there is
# left out, and so is a panel without any
_PANELS: tuple[tuple[str, dict[str, tuple[str, str]]], ...] = (
    ("mean reward", {"reward": ("all rewards added up", "after")}),
    (
        "share of rollouts",
        {
            "unsafe": ("harmful prompts answered unsafely", "harmful"),
            "over_refusal": ("benign prompts refused", "benign"),
            "over_refusal_unread": ("benign prompts with no answer to read", "muted"),
            "unsafe_prefixed": ("unsafe after a flawed beginning", "before"),
            "truncated": ("cut at the longest", "muted"),
        },
    ),
    (
        "share of groups and tokens",
        {
            "flat_groups": ("groups without spread", "muted"),
            "unrewarded": ("without a reward", "harmful"),
            "taught_tokens": ("tokens learnt from", "after"),
            "repeats_guidance": ("repeats the guidance", "harmful"),
        },
    ),
    (
        "tokens",
        {
            "length": ("mean length of a rollout", "after"),
            "horizon": ("longest that one may be", "muted"),
        },
    ),
    ("nats", {"kl": ("divergence from the reference", "after")}),
    ("nats, log scale", {"log_p_gap_max": ("largest gap of sampler and trainer", "muted")}),
    (
        "share of tokens",
        {"effective_sample_share": ("effective sample under importance ratios", "after")},
    ),
)


def rollout_steps(metrics: Sequence[Mapping]) -> list[Mapping]:
    """The line of each step's rollouts; of a step that was drawn twice the later one."""
    lines = {m["step"]: m for m in metrics if m.get("stage") == "rollout" and "step" in m}
    return [lines[step] for step in sorted(lines)]


def rollouts_plot(metrics: Sequence[Mapping]) -> Markup | None:
    """Rewards, shares, lengths and divergences by step, a panel each; None without rollouts."""
    from matplotlib.ticker import MaxNLocator

    trained = {m["step"]: m for m in metrics if m.get("stage") == "train" and "loss" in m}
    steps = [{**trained.get(line["step"], {}), **line} for line in rollout_steps(metrics)]
    if len(steps) < 2:
        return None
    panels = [(title, _series(steps, names)) for title, names in _PANELS]
    panels = [(title, series) for title, series in panels if series]

    def draw(first: "Axes") -> None:
        figure = first.figure
        first.remove()
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, series) in zip(grid, panels, strict=True):
            _draw(axes, title, series)
        grid[-1].set_xlabel("optimiser step")
        grid[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return figure_of("rollouts", 0.4 + 1.4 * len(panels), draw, "Rollouts by optimiser step")


Series = tuple[str, str, np.ndarray, np.ndarray]  # label, colour, steps, values


def _series(steps: Sequence[Mapping], names: Mapping[str, tuple[str, str]]) -> list[Series]:
    series = []
    for name, (label, colour) in names.items():
        points = [(s["step"], s[name]) for s in steps if isinstance(s.get(name), int | float)]
        if len(points) > 1:
            x, y = np.array(points, float).T
            series.append((label, COLOURS[colour], x, y))
    return series


def _draw(axes: "Axes", title: str, series: Sequence[Series]) -> None:
    axes.grid(axis="y", alpha=0.5)
    for label, colour, x, y in series:
        window = max(1, len(y) // 15)
        smooth = np.convolve(y, np.ones(window) / window, mode="valid")
        axes.plot(x, y, color=colour, alpha=0.3, linewidth=0.9)
        axes.plot(x[window - 1 :], smooth, color=colour, linewidth=1.6, label=label)
    if "log scale" in title:
        axes.set_yscale("log")
    elif "share" in title:
        axes.set_ylim(-0.03, 1.03)
    axes.set_title(title, loc="left", fontsize=7.5, color=COLOURS["muted"])
    # beside the title: inside, it would lie on the curves
    axes.legend(
        frameon=False, fontsize=6.2, loc="lower right", bbox_to_anchor=(1.02, 0.97),
        borderpad=0, handlelength=1.2, labelspacing=0.2,
    )  # fmt: skip
    axes.tick_params(axis="y", which="both", labelcolor=COLOURS["muted"])
