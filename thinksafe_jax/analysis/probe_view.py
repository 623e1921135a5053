"""A probe for people: a table for the terminal and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from thinksafe_jax import figures
from thinksafe_jax.storage import atomic_write, prepare_directory
from thinksafe_jax.synthesis import MANY_REFUSALS, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from thinksafe_jax.analysis.probe import Probe
    from thinksafe_jax.analysis.probe_arm import Arm
    from thinksafe_jax.intervals import Rate


def probe_table(probe: "Probe") -> Table:
    """One row an arm: α, ω̂, tokens and what the whole run would cost."""
    total = f"{sum(probe.run_prompts.values()):,} prompts"
    table = Table(
        title=Text(f"Acceptance by {probe.guard}; cost of one attempt at each of {total}")
    )
    for name in (
        "prompts",
        "template",
        "accepted, 95 %",
        "ω̂, 95 %",
        "tokens/row",
        "tokens/accepted",
    ):
        table.add_column(name, justify="left" if name in ("prompts", "template") else "right")
    for name in ("rows", "tokens", "hours"):
        table.add_column(f"run: {name}", justify="right")
    for arm in probe.arms:
        marked = arm.template == probe.recommended and arm.label == "harmful"
        # a template is a user's text: its brackets are no markup
        table.add_row(*map(Text, _cells(arm)), style="bold" if marked else None)
    return table


def guidance_table(probe: "Probe") -> Table:
    """One row a template, as guidance of a teacher: what it makes of unsafe answers."""
    arms = [arm for arm in probe.arms if arm.flip_rate is not None]
    horizons = list(dict.fromkeys(n for arm in arms for n in arm.rescue_rates))
    table = Table(title=Text("Answers that are unsafe without the template, 95 %"))
    table.add_column("template")
    names = ("flipped", *(f"rescued after {n} tokens" for n in horizons), "template repeated")
    for name in names:
        table.add_column(name, justify="right")
    for arm in arms:
        rates = (arm.flip_rate, *(arm.rescue_rates.get(n) for n in horizons), arm.repeats)
        table.add_row(*map(Text, (short_name(arm.template), *map(_share, rates))))
    return table


def refusals_line(probe: "Probe") -> str:
    """How many safe answers to benign prompts refuse; "" where none was given."""
    arm = next((arm for arm in probe.arms if arm.refusals and arm.refusals.n), None)
    if arm is None or arm.refusals is None:
        return ""
    advice = "; see synthesis.benign_refusals" if (arm.refusals.value or 0) > MANY_REFUSALS else ""
    return (
        f"of {arm.refusals.n} safe answers to benign prompts, {_share(arm.refusals)} refuse, 95 %"
        f"{advice}"
    )


def write_plot(probe: "Probe", path: Path) -> Path:
    """Acceptance on harmful prompts (left) and ω̂ on a logarithmic axis (right), with intervals."""
    arms = [arm for arm in probe.arms if arm.label == "harmful"][::-1]
    prepare_directory(path.parent)
    size = (9, 0.5 * len(arms) + 1.6)
    atomic_write(path, figures.png(lambda figure: _draw(figure, probe, arms), size))
    return path


def _draw(figure: "Figure", probe: "Probe", arms: Sequence["Arm"]) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    places = list(range(len(arms)))
    _intervals(left, places, [_ends(arm.acceptance) for arm in arms])
    left.set_xlim(-0.02, 1.02)  # whole points at both ends
    left.set_xlabel("accepted share α of harmful prompts, 95 %")
    left.set_yticks(places, [short_name(arm.template) for arm in arms], parse_math=False)
    ratios = {
        place: (ratio.value, ratio.low, ratio.high)
        for place, arm in enumerate(arms)
        if (ratio := arm.odds_ratio) is not None and ratio.value is not None
    }
    _intervals(right, list(ratios), list(ratios.values()))
    right.set_xscale("log")
    right.axvline(1.0, color="grey", linewidth=0.8)
    right.set_xlabel("odds ratio ω̂ against no steering, 95 %")
    title = f"{probe.student}: {probe.prompts['harmful']} harmful prompts"
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.tight_layout()


def _intervals(axes, places: Sequence[int], values: Sequence) -> None:
    for place, (value, low, high) in zip(places, values, strict=True):
        axes.plot([low, high], [place, place], color="#33658a", linewidth=2)
        axes.plot([value], [place], "o", color="#33658a")


def _ends(rate: "Rate") -> tuple[float, float, float]:
    return rate.value or 0.0, rate.low or 0.0, rate.high or 0.0


def _share(rate: "Rate | None") -> str:
    """A share with its interval; a dash where nothing was counted."""
    if rate is None or rate.value is None:
        return "–"
    value, low, high = _ends(rate)
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _cells(arm: "Arm") -> list[str]:
    ratio, shown = arm.odds_ratio, "–"
    if ratio is not None and ratio.value is not None:
        shown = f"{ratio.value:.3g} ({ratio.low:.3g} to {ratio.high:.3g}){'*' * ratio.corrected}"
    per_accepted, hours = arm.tokens_per_accepted, arm.expected_hours
    return [
        arm.label,
        short_name(arm.template),
        _share(arm.acceptance),
        shown,
        f"{arm.tokens_per_response:,.0f}",
        "–" if per_accepted is None else f"{per_accepted:,.0f}",
        f"{arm.expected_accepted:,.0f}",
        f"{arm.expected_tokens:,.0f}",
        "–" if hours is None else f"{hours:.2g}",
    ]
