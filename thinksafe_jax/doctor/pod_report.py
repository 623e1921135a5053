"""The report of all hosts as a table."""

from rich.table import Table
from rich.text import Text

from thinksafe_jax.doctor.pod import HostReport, PodReport
from thinksafe_jax.terminal import clean, output


def print_report(report: PodReport) -> None:
    """One line a host, then the links between them, then what has to be put right."""
    console, table = output(120), Table(box=None, padding=(0, 2, 0, 0))
    for name in ("process", "host", "devices", "jax", "clock", "disk free", "run dir", "recipe"):
        table.add_column(name)
    for index, (host, skew) in enumerate(zip(report.hosts, report.skews, strict=True)):
        table.add_row(str(index), *(Text(clean(cell)) for cell in _cells(host, skew)))
    console.print(table)
    if report.bandwidth is not None:
        bandwidth = report.bandwidth
        console.print(
            f"all-reduce of {bandwidth.megabytes} MiB over {bandwidth.devices} devices: "
            f"{1e3 * bandwidth.seconds:.2f} ms, {bandwidth.gb_per_second:.1f} GB/s through each"
        )
    for problem in report.problems:
        console.print(Text(clean(problem), "red"), soft_wrap=True)
    if not report.problems:
        console.print(f"{len(report.hosts)} hosts agree, and nothing is missing")


def _cells(host: HostReport, skew: float) -> tuple[str, ...]:
    return (
        host.host,
        f"{host.chips} x {host.kind}" if host.chips else "none",
        host.versions.get("jax", "absent"),
        f"{1e3 * skew:+.0f} ms",
        f"{host.free_disk / 2**30:.0f} GiB",
        "fault" if host.run_dir else "ok",
        _recipe(host),
    )


def _recipe(host: HostReport) -> str:
    if host.recipe is None:
        return "-"
    return f"{len(host.recipe)} missing" if host.recipe else "ok"
