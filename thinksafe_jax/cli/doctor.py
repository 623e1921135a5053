"""thinksafe doctor."""

import re
from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax import hosts
from thinksafe_jax.cli.arguments import run_directory
from thinksafe_jax.cli.pipeline import recipe_faults
from thinksafe_jax.errors import ConfigError, ThinkSafeError

_OVERRIDE = re.compile(r"[A-Za-z_][\w.\[\]]*=")  # begins a change to the recipe, not a path


def doctor(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_DIR] [KEY=VALUE]...",
            help="A run directory to look into, or its URL; with --config, changes to the recipe.",
            show_default=False,
        ),
    ] = None,
    pod: Annotated[
        bool, typer.Option("--pod", help="Examine all hosts together; start it on all of them.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="With --pod: the recipe that all are to run."),
    ] = None,
) -> None:
    """Print versions, devices, storage, extras and leftovers, and what is missing.

    With --pod, on all hosts: devices, versions, clocks, disk, whether all can write in RUN_DIR and
    see each other's files there, what `thinksafe check` looks for, and an all-reduce with its
    bandwidth. Exit code 4 when something is missing or one host differs; what the recipe lacks has
    the exit codes of `thinksafe check`.

    Examples:

      thinksafe doctor runs/mini

      thinksafe doctor --pod --config qwen3-8b gs://bucket/run mesh=v5e-16
    """
    from thinksafe_jax.doctor import examine, print_findings

    run_dir, overrides = _apart(arguments or [])
    if overrides and config is None:
        raise ConfigError(f"{overrides[0]}: changes a recipe; name it with --pod --config")
    if pod:
        code = _examine_pod(context, run_dir, config, overrides)
    else:
        findings = examine(run_directory(run_dir) if run_dir else None)
        print_findings(findings)
        code = 4 if any(f.state == "missing" for f in findings) else 0
    if code:
        raise typer.Exit(code)


def _apart(arguments: list[str]) -> tuple[str | None, list[str]]:
    """(the run directory, the changes to the recipe)."""
    overrides = [text for text in arguments if _OVERRIDE.match(text)]
    paths = [text for text in arguments if text not in overrides]
    if len(paths) > 1:
        raise ConfigError(f"{paths[1]}: one run directory, please, and changes as key.sub=value")
    return next(iter(paths), None), overrides


def _examine_pod(
    context: typer.Context, run_dir: str | None, config: Path | None, overrides: list[str]
) -> int:
    """The exit code."""
    told = context.parent.params if context.parent else {}
    told = {name: told.get(name) for name in ("coordinator", "processes", "process")}
    group = hosts.join(**told, compare=False)
    from thinksafe_jax.doctor import examine_pod, print_report

    def missing() -> list[ThinkSafeError]:
        return [] if config is None else recipe_faults(config, overrides, run_dir).errors()

    report = examine_pod(group, run_dir, missing if config else None)
    if group.first:
        print_report(report)
    group.barrier("doctor: printed")
    return report.exit_code


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(doctor)
