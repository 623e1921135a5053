"""thinksafe configs, thinksafe configs copy."""

from pathlib import Path
from typing import Annotated

import typer

configs = typer.Typer(
    invoke_without_command=True,
    help=(
        "List the recipes, studies, models, meshes and rule tables that can be named, or copy one "
        "to edit."
        "\n\nExamples:\n\n  thinksafe configs\n\n  thinksafe configs copy qwen3-8b"
    ),
)


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.add_typer(configs, name="configs")


@configs.callback()
def list_configs(context: typer.Context) -> None:
    """Prints the names, kind by kind, with the first sentence that each file says of itself."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from thinksafe_jax.config import KINDS, shipped_configs
    from thinksafe_jax.terminal import output

    console = output(120)
    files = shipped_configs()
    for kind in KINDS:
        console.print(f"[bold]{kind}[/]")
        table = Table.grid(padding=(0, 2))
        for file in files:
            if file.kind == kind:
                table.add_row(f"  {file.name}", file.description)
        console.print(table)
    console.print("thinksafe configs copy NAME writes one to edit; --config NAME uses it as it is")


@configs.command()
def copy(
    name: Annotated[
        str,
        typer.Argument(help="As listed; models/qwen3-8b where a recipe has the same name."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The new file. Default: NAME.yaml in this folder.")
    ] = None,
) -> None:
    """Write a copy of a recipe, study, model, mesh, chip or rule table to edit.

    No file is overwritten.

    Example: thinksafe configs copy qwen3-8b --out mine.yaml
    """
    from thinksafe_jax.config import copy_config

    typer.echo(copy_config(name, out))
