"""thinksafe study."""

from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax.cli.arguments import local_folder, number


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(study)


def study(
    file: Annotated[
        Path, typer.Argument(help="A study (YAML), or a name in configs/studies.", metavar="STUDY")
    ],
    study_dir: Annotated[
        str | None,
        typer.Option(help="Where everything goes. Default: the study's own, or studies/<name>."),
    ] = None,
    jobs: Annotated[int, number(1, 64, "Runs at once on this machine.")] = 1,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try runs that failed before once more.")
    ] = False,
) -> None:
    """Compare methods at their best settings, with several seeds, on one page with the cost.

    Each method's setting is chosen by the study's rule on a validation split; the page shows the
    held-out split alone. Runs are ordinary run directories. What is done is kept and what was cut
    short is resumed: give the same command again. Hosts that see the same directory may all give
    it, and share the runs.

    Examples:

      thinksafe study mini-smoke --jobs 2

      thinksafe plan --study paper-qwen3-0.6b --mesh v5e-8
    """
    from thinksafe_jax.studies import default_folder, load_study, run_study
    from thinksafe_jax.terminal import output

    loaded = load_study(file)
    root = local_folder(study_dir or default_folder(loaded))
    results = run_study(loaded, root, jobs=jobs, retry=retry)
    if results is None:
        return
    from thinksafe_jax.studies import study_table

    output(110).print(study_table(results))
    typer.echo(f"page: {root / 'study.html'}")
