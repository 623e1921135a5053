"""A sweep as a picture of two wishes: many tokens a second and chip, and little memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thinksafe_jax import figures
from thinksafe_jax.planning.sweep_best import fitting, pareto_front, rate_per_chip
from thinksafe_jax.planning.sweep_settings import PHASES, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5b6570")
_MARKERS = "osD^vP*X"
_FONT = 6.5  # points, of a label
# where a label may stand beside its point: points to the right and up, and its side
_PLACES = ((3, 3, "left"), (3, -8, "left"), (-3, 3, "right"), (-3, -8, "right"), (3, 10, "left"))


def pareto_plot(rows: Sequence[Row]) -> str:
    """An SVG document: a panel for each phase, a colour for each model, a marker for each table.

    Rows that no other of their model and chip beats in both are joined by a line, and the fastest
    of them is named by its mesh. What does not fit on its chip is left out.
    """
    from matplotlib.lines import Line2D

    good = fitting(rows)
    models, tables, phases = (
        list(dict.fromkeys(row[name] for row in good)) for name in ("model", "table", "phase")
    )
    phases = [phase for phase in PHASES if phase in phases]

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(1, max(1, len(phases)), squeeze=False)[0]
        for axes, phase in zip(panels, phases, strict=False):
            of_phase = [row for row in good if row["phase"] == phase]
            fastest = []
            for number, model in enumerate(models):
                of_model = [row for row in of_phase if row["model"] == model]
                fastest += _points(axes, of_model, tables, _COLOURS[number % len(_COLOURS)])
            axes.set_title(phase)
            axes.set_xlabel("GB a chip")
            axes.set_yscale("log")
            axes.margins(x=0.2)
            axes.grid(alpha=0.3)
            _name(axes, fastest)
        panels[0].set_ylabel("tokens/s a chip")
        marks = [
            Line2D([], [], color=_COLOURS[n % len(_COLOURS)], marker="o", label=model)
            for n, model in enumerate(models)
        ] + [
            Line2D([], [], color="black", marker=_MARKERS[n % len(_MARKERS)], ls="", label=table)
            for n, table in enumerate(tables)
        ]
        figure.legend(handles=marks, loc="outside upper left", ncols=4, frameon=False)

    return figures.svg(draw, (0.6 + 2.9 * max(1, len(phases)), 3.6), "pareto", {"font.size": 8})


def _points(
    axes: Any, rows: Sequence[Row], tables: Sequence[str], colour: str
) -> list[tuple[str, tuple[float, float], str]]:
    """The rows of a model and phase; those of each kind of chip have a front of their own.

    Returns:
        mesh, place and colour of the fastest of each front.
    """
    for row in rows:
        marker = _MARKERS[tables.index(row["table"]) % len(_MARKERS)]
        axes.plot(*_place(row), marker, color=colour, ms=4)
    fastest = []
    for chip in dict.fromkeys(row["chip"] for row in rows):
        front = pareto_front([row for row in rows if row["chip"] == chip])
        axes.plot(*zip(*map(_place, front), strict=True), "-", color=colour, linewidth=0.8)
        fastest.append((front[-1]["mesh"], _place(front[-1]), colour))
    return fastest


def _place(row: Row) -> tuple[float, float]:
    return row["peak_bytes"] / 1e9, rate_per_chip(row)


def _name(axes: Any, fastest: Sequence[tuple[str, tuple[float, float], str]]) -> None:
    """Labels in their points' colour, each at the first place where no label stands already."""
    taken: list[tuple[float, float]] = []  # middles, in points
    for mesh, place, colour in fastest:
        x, y = axes.transData.transform(place) * 72 / axes.figure.dpi
        width = 0.6 * _FONT * len(mesh)

        def middle(
            right: float, up: float, side: str, x: float = x, y: float = y, width: float = width
        ) -> tuple[float, float]:
            return x + right + (width / 2 if side == "left" else -width / 2), y + up

        free = [
            option
            for option in _PLACES
            if all(
                abs(middle(*option)[0] - a) > width or abs(middle(*option)[1] - b) > _FONT
                for a, b in taken
            )
        ]
        right, up, side = (free or _PLACES)[0]
        taken.append(middle(right, up, side))
        axes.annotate(
            mesh, place, xytext=(right, up), textcoords="offset points",
            ha=side, fontsize=_FONT, color=colour,
        )  # fmt: skip
