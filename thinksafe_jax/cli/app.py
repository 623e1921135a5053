"""The application: its name, its help, and the options before a command."""

import sys
from typing import Annotated

import typer

from thinksafe_jax import hosts
from thinksafe_jax.cli.arguments import MOST_ROWS, number
from thinksafe_jax.version import __version__

app = typer.Typer(
    name="thinksafe",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Make a reasoning model safer with data that it writes itself (ThinkSafe, in JAX).\n\n"
        "prompts -> steer -> sample -> guard -> dataset -> LoRA -> export -> evaluate -> report\n\n"
        "Start with: [cyan]thinksafe run --config mini[/]\n\n"
        "Exit codes: 0 ok, 2 usage or config, 3 bad input or artefact, 4 environment or storage, "
        "75 try again later, 130/143 stopped by Ctrl-C/SIGTERM (run again to resume)."
    ),
)


SEVERAL = "Several processes (Cloud TPU, GKE and Slurm: found by itself)"


# commands that several processes run together; the others work in one
TOGETHER = {"run", "sample", "filter", "train", "export", "evaluate", "report"}


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(
            envvar="THINKSAFE_COORDINATOR",
            help="HOST:PORT of process 0; the next port is used as well.",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        number(
            1,
            MOST_ROWS,
            "How many there are; 1 runs this one alone.",
            envvar="THINKSAFE_PROCESSES",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    process: Annotated[
        int | None,
        number(
            0,
            MOST_ROWS,
            "Which this is, from 0.",
            envvar="THINKSAFE_PROCESS",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    asked_for_help = {"-h", "--help"} & set(sys.argv)
    if context.invoked_subcommand in TOGETHER and not asked_for_help:
        hosts.join(coordinator, processes, process)
