"""A sweep for people: a table for the terminal, a picture, and the command itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.table import Table

from thinksafe_jax import figures
from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.planning.devices import has_compiler, simulate
from thinksafe_jax.planning.find_model import find_model
from thinksafe_jax.planning.memory import Settings
from thinksafe_jax.planning.roofline import BOUND, DCN_BOUND, FORMULAS, SYMBOLS
from thinksafe_jax.planning.sweep import combinations_of, sweep
from thinksafe_jax.planning.sweep_best import best_lines, draft_lines
from thinksafe_jax.planning.sweep_between import between_lines, between_rows
from thinksafe_jax.planning.sweep_csv import sweep_csv
from thinksafe_jax.planning.sweep_pareto import pareto_plot
from thinksafe_jax.planning.sweep_settings import (
    PHASES,
    USUAL_PHASES,
    Combination,
    Row,
    SweepSettings,
)
from thinksafe_jax.sharding import MeshConfig, load_mesh, load_rules
from thinksafe_jax.storage import atomic_write
from thinksafe_jax.terminal import Progress, clean, output, print_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5b6570")


@dataclass(frozen=True)
class SweepFiles:
    """Where the rows go, as JSON and CSV, and two pictures of them (SVG): each if anywhere."""

    json: Path | None = None
    csv: Path | None = None
    plot: Path | None = None
    pareto: Path | None = None


def run_sweep(
    models: Sequence[str],
    meshes: Sequence[str],
    rules: Sequence[Path],
    settings: SweepSettings,
    *,
    out: SweepFiles,
    phases: Sequence[str] = USUAL_PHASES,
) -> list[Row]:
    """The command `thinksafe sweep-sharding`: compiles, prints the table, writes the files.

    Args:
        models: see `find_model`.
        meshes: see `load_mesh`.
        rules: files of rule tables, beside each mesh's own; see `load_rules`.
        phases: what is compiled of each, see `PHASES`.
    """
    tables = [("own", lambda mesh: mesh)]
    tables += [(file.stem, load_rules(file)) for file in rules]
    loaded = [load_mesh(name) for name in meshes]
    named = [find_model(name) for name in models]
    prepare_devices(loaded, settings)
    combinations = list(combinations_of(named, loaded, tables, phases))
    with Progress("sweep", len(combinations), unit="programs") as progress:

        def report(row: Row) -> None:
            progress.advance(model=row["model"], mesh=row["mesh"], phase=row["phase"])
            print_line(row_line(row))

        rows = sweep(combinations, settings, out.json, report)
    print_rows(rows, loaded)
    for title, lines in (
        ("The best that fits:", list(best_lines(rows))),
        ("What drafts must bring:", list(draft_lines(rows))),
    ):
        if lines:
            output(150).print("\n".join([title, *lines]), markup=False)
    print_between(combinations, settings, out.json)
    write_files(rows, out)
    return rows


def prepare_devices(meshes: Sequence[MeshConfig], settings: SweepSettings) -> None:
    """Before JAX starts: as many simulated devices as the largest mesh needs."""
    if not settings.measure:
        jax.config.update("jax_platforms", "cpu")  # a TPU host keeps its chips
    simulated = [m.topology.chips for m in meshes if not has_compiler(m.topology)]
    simulate(max(simulated, default=1))


def print_rows(rows: Sequence[Row], meshes: Sequence[MeshConfig]) -> None:
    """The table of the rows, and what its figures mean."""
    console = output(150)
    console.print(sweep_table(rows))
    lines = [BOUND, *([DCN_BOUND] if any(mesh.topology.slices > 1 for mesh in meshes) else [])]
    compiled = [phase for phase in PHASES if any(row["phase"] == phase for row in rows)]
    lines += [*(f"  {phase}: {FORMULAS[phase]}" for phase in compiled), SYMBOLS]
    console.print("\n".join(lines), markup=False)
    if any("scaled" in row.get("compiler", "") for row in rows):
        console.print("CPU: no compiler of these chips is installed; the figures are XLA:CPU's")


def print_between(
    combinations: Sequence[Combination], settings: SweepSettings, json_file: Path | None
) -> None:
    """What an on-policy run holds in both layouts and moves between them; into the file, too."""
    between = list(between_rows(combinations, settings))
    if not between:
        return
    lines = ["Between the phases, where a run is on-policy:", *between_lines(between)]
    output(150).print("\n".join(lines), markup=False)
    if json_file is not None:
        content = read_json_object(json_file) | {"between": between}
        atomic_write(json_file, json.dumps(content, indent=1) + "\n")


def write_files(rows: Sequence[Row], out: SweepFiles) -> None:
    """The table and the pictures that were asked for."""
    written = ((out.csv, sweep_csv), (out.plot, sweep_plot), (out.pareto, pareto_plot))
    for file, make in written:
        if file is not None:
            atomic_write(file, make(rows))


def settings_of(
    *,
    prompt: int,
    slots: int | None,
    length: int,
    rows: int,
    context: int,
    dtype: str,
    measure: bool,
    kv_dtype: str = "model",
    **of_phases: int,
) -> SweepSettings:
    """Settings from the command's options.

    Args:
        of_phases: drafts and rollouts, see `SweepSettings`.
    """
    training = TrainingConfig(max_length=length, micro_batch_size=rows)
    mean = min(Settings.mean_context, context)
    sizes = Settings(dtype, training, context, mean, kv_dtype)
    return SweepSettings(prompt, slots, sizes, measure, **of_phases)


def row_line(row: Row) -> str:
    """A row as it is done, in a line."""
    head = f"{row['model']} {row['mesh']} {row['table']} {row['phase']}: "
    if row["status"] != "ok":
        return head + f"{row['status']}: {row['reason']}"
    return head + (
        f"{row['peak_bytes'] / 1e9:.2f} GB, {row['collective_count']} collectives, "
        f"compiled in {row['compile_seconds']:.1f} s"
    )


def sweep_table(rows: Sequence[Row]) -> Table:
    """One line a row; what could not be has its reason."""
    table = Table(title="Per device; times and rates are lower and upper bounds")
    for name in ("model", "mesh", "table", "phase", "axes"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "GB", "TFLOP", "collectives", "MB sent", "ms", "limit", "tokens/s", "for"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(clean(cell) for cell in _cells(row)))
    return table


def _cells(row: Row) -> list[str]:
    axes = " ".join(f"{name} {size}" for name, size in row["axes"].items() if size > 1)
    head = [row["model"], row["mesh"], row["table"], row["phase"], axes or "1"]
    if row["status"] != "ok":
        return [*head, row["status"], *[""] * 7, row["compiled_for"]]
    kinds = " ".join(f"{t['count']} {_SHORT[kind]}" for kind, t in row["collectives"].items())
    seconds = row.get("measured_seconds", row["roofline_seconds"])
    return [
        *head,
        f"{row['rows']:,}",
        f"{row['peak_bytes'] / 1e9:.1f}" + ("" if row["fits"] else "!"),
        f"{row['flops'] / 1e12:,.3g}",
        kinds or "none",
        f"{row['wire_bytes'] / 1e6:,.3g}",
        f"{1e3 * seconds:,.3g}" + (" measured" if "measured_seconds" in row else ""),
        row["limit"],
        f"{row.get('measured_tokens_per_second', row['tokens_per_second']):,.0f}",
        row["compiled_for"],
    ]


_SHORT = {
    "all-reduce": "reduce",
    "all-gather": "gather",
    "reduce-scatter": "scatter",
    "all-to-all": "all-to-all",
    "collective-permute": "permute",
    "collective-broadcast": "broadcast",
}


def sweep_plot(rows: Sequence[Row]) -> str:
    """Tokens a second and chip for each phase, and how full a device is: an SVG document.

    Meshes and models stand in the order of the rows, and below each mesh its tables. What has no
    bar says why. The picture is read about 880 px wide, where 6.5 points are 10 px.
    """
    from matplotlib.patches import Patch

    models, meshes, tables = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("model", "mesh", "table")
    )
    tried = {(row["mesh"], row["table"]) for row in rows}
    cells = [(mesh, table) for mesh in meshes for table in tables if (mesh, table) in tried]
    phases = [phase for phase in PHASES if any(row["phase"] == phase for row in rows)]

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(1, max(1, len(phases)), sharey=True, squeeze=False)[0]
        for axes, phase in zip(panels, phases, strict=False):
            _panel(axes, [row for row in rows if row["phase"] == phase], models, cells)
            axes.set_title(phase)
            axes.set_xlabel("tokens/s a chip, at most")
        marks = [
            Patch(color=COLOURS[n % len(COLOURS)], label=model) for n, model in enumerate(models)
        ]
        figure.legend(handles=marks, loc="outside upper left", ncols=3, frameon=False)

    size = 0.6 + 2.4 * max(1, len(phases)), 1.1 + 0.15 * (len(models) + 1) * len(cells)
    return figures.svg(draw, size, "sweep", {"font.size": 8})


_WHY_NO_BAR = {"too large": "does not fit"}  # other statuses say it themselves


def _panel(axes: Any, rows: Sequence[Row], models: list[str], cells: list[tuple[str, str]]) -> None:
    """The bars of one phase; of a combination that several sweeps have, the last one's."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    row_of = {(row["model"], row["mesh"], row["table"]): row for row in rows}
    step = 1 / (len(models) + 1)
    for y, (mesh, table) in enumerate(cells):
        for number, model in enumerate(models):
            height = y + (number - (len(models) - 1) / 2) * step
            row = row_of.get((model, mesh, table), {"status": "not tried"})
            _bar(axes, row, height, step, COLOURS[number % len(COLOURS)])
    rates = [_rate(row) for row in row_of.values() if row["status"] == "ok"]
    axes.set_xlim(0, 1.75 * max(rates, default=1.0))  # the text behind the longest bar has room
    axes.set_yticks(range(len(cells)), [f"{mesh}\n{table}" for mesh, table in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="x", alpha=0.3)
    for y in range(1, len(cells)):
        axes.axhline(y - 0.5, color="#d3d8dd", linewidth=0.5)


def _bar(axes: Any, row: Row, y: float, height: float, colour: str) -> None:
    """A bar with its figures; without figures, the reason in the bar's colour."""
    if row["status"] != "ok":
        text, rate = _WHY_NO_BAR.get(row["status"], row["status"]), 0.0
    else:
        rate, share = _rate(row), row["network_seconds"] / row["roofline_seconds"]
        axes.barh(y, rate, height, color=colour, alpha=1.0 if row["fits"] else 0.3)
        parts = [f"{rate:,.0f}", *([f"network {share:.0%}"] if share > 0.005 else [])]
        text = ", ".join(parts) if row["fits"] else f"{rate:,.0f}, does not fit"
    style = {} if row["status"] == "ok" else {"color": colour, "style": "italic"}
    axes.annotate(
        text, (rate, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.5,
        **style,
    )  # fmt: skip


def _rate(row: Row) -> float:
    """Tokens a second and chip at the bound."""
    return row["tokens_per_second"] / row["chips"]
