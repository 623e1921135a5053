"""thinksafe doctor."""

from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax import hosts
from thinksafe_jax.cli.arguments import run_directory


def doctor(
    context: typer.Context,
    run_dir: Annotated[
        str | None,
        typer.Argument(help="A run directory to look into, or its URL.", show_default=False),
    ] = None,
    pod: Annotated[
        bool, typer.Option("--pod", help="Examine all hosts together; start it on all of them.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="With --pod: whose models to look for.")
    ] = None,
) -> None:
    """Print versions, devices, storage, extras and leftovers, and what is missing.

    With --pod, on all hosts: devices, versions, clocks, disk, whether all can write in RUN_DIR and
    see each other's files there, whether all may load the recipe's models, and an all-reduce with
    its bandwidth. Exit code 4 when something is missing or one host differs.

    Examples:

      thinksafe doctor runs/mini

      thinksafe doctor --pod --config qwen3-8b gs://bucket/run
    """
    from thinksafe_jax.doctor import examine, print_findings

    if pod:
        sound = _examine_pod(context, run_dir, config)
    else:
        findings = examine(run_directory(run_dir) if run_dir else None)
        print_findings(findings)
        sound = not any(f.state == "missing" for f in findings)
    if not sound:
        raise typer.Exit(4)


def _examine_pod(context: typer.Context, run_dir: str | None, config: Path | None) -> bool:
    told = context.parent.params if context.parent else {}
    told = {name: told.get(name) for name in ("coordinator", "processes", "process")}
    group = hosts.join(**told, compare=False)
    from thinksafe_jax.config import load_recipe
    from thinksafe_jax.doctor import examine_pod, print_report

    report = examine_pod(group, run_dir, load_recipe(config) if config else None)
    if group.first:
        print_report(report)
    group.barrier("doctor: printed")
    return not report.problems


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(doctor)
