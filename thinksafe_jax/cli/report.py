"""thinksafe report."""

from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax import hosts
from thinksafe_jax.cli.arguments import Config, SkipBadRows, output_file, run_directory
from thinksafe_jax.errors import ConfigError


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="A run directory: a folder, or gs://bucket/run, s3://bucket/run; with --out two "
            "or more. Behind one, changes to its recipe as [cyan]key.sub=value[/].",
            metavar="RUN_DIR...",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Of several runs: the page, as runs.html.", parser=output_file, metavar="FILE"
        ),
    ] = None,
    config: Config = None,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Write report/report.html and report/summary.json; or one page on several runs.

    The recipe is the one the directory was begun with. Several runs stand side by side: rates,
    differences to the first one problem by problem, settings that differ, the same prompts.

    Examples:

      thinksafe report runs/mini

      thinksafe report runs/mini runs/mini_direct_refusal --out runs/demo.html
    """
    from thinksafe_jax.cli.pipeline import recipe_of, start

    overrides = [text for text in runs[1:] if "=" in text and not Path(text).exists()]
    folders = [run_directory(text) for text in runs if text not in overrides]
    if out is None:
        if len(folders) > 1:
            raise ConfigError("several runs stand in a page of their own: give it as --out FILE")
        recipe = recipe_of(folders[0], config, overrides)
        start(recipe, folders[0], ["report"], skip_bad_rows=skip_bad_rows)
        return
    if overrides or config:
        raise ConfigError("--out is made from what the runs hold: it takes no recipe, no key=value")
    if hosts.current().first:
        from thinksafe_jax.report import write_several

        write_several(folders, out)
        typer.echo(out)


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(report)
