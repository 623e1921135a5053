"""thinksafe init."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    model: Annotated[
        str,
        typer.Argument(help="The student: a name in configs/models, a directory, or a Hub id."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The new file. Default: NAME-first.yaml in this folder.")
    ] = None,
    mesh: Annotated[
        str | None,
        typer.Option(help="Of the machine that will run it. Default: the devices of this one."),
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(
            help="KIND or KIND:MODEL, as llama-guard:meta-llama/Llama-Guard-3-8B. Default: the "
            "largest Qwen3Guard that fits, else refusal-match."
        ),
    ] = None,
) -> None:
    """Write a first recipe for a model and a machine, and say what to type next.

    Every key has its reason behind it. The prompts are of trial size and ship with the package.
    What was assumed is printed; no file is overwritten, no weights are read. Models that ship in
    configs/models need no network.

    Examples:

      thinksafe init Qwen/Qwen3-0.6B

      thinksafe init Qwen3-8B --mesh v5e-16 --out mine.yaml
    """
    from thinksafe_jax.starter import write_first_recipe
    from thinksafe_jax.terminal import clean

    first = write_first_recipe(model, out, mesh=mesh, guard=guard)
    typer.echo(clean(first.file))
    for sentence in first.assumed:
        typer.echo(f"  {sentence}")
    typer.echo("\nnext:")
    for command, purpose in first.commands:
        typer.echo(f"  {command}\n      # {purpose}")


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(init)
