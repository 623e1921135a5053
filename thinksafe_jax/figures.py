"""From a drawing to SVG or PNG: text stays text, the same data give the same bytes.

Nothing of matplotlib's global state is used, so figures may be drawn from any thread. matplotlib
is imported by the first figure: it takes half a second.
"""

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[["Figure"], None]
_PLAIN = {"axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}


def svg(
    draw: Draw,
    size: tuple[float, float],
    name: str,
    style: Mapping[str, Any] | None = None,
    *,
    transparent: bool = False,
) -> str:
    """An SVG document.

    Args:
        draw: fills an empty figure.
        size: width and height in inches.
        name: of the figure; the ids in the document follow from it.
        style: matplotlib's settings, over axes without a frame.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {**_PLAIN, **(style or {}), "svg.hashsalt": name}
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=transparent, metadata={"Date": None})
    return out.getvalue()


def png(draw: Draw, size: tuple[float, float], dpi: int = 150) -> bytes:
    """A PNG image of `size` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    draw(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()
