"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer


def run_directory(text: str) -> Path:
    """The local folder of a run directory; for gs:// and s3:// its copy, fetched first."""
    from thinksafe_jax.runs import run_folder

    return run_folder(text)


NewVerdicts = Annotated[
    bool,
    typer.Option(
        "--new-verdicts",
        help="Delete what the guard said and all that was made of it, keep the samples; guard.* "
        "may be given anew.",
    ),
]
RunDirectory = Annotated[
    Path,
    typer.Argument(
        help="A run directory: a folder, or gs://bucket/run, s3://bucket/run.",
        parser=run_directory,
        metavar="RUN_DIR",
        show_default=False,
    ),
]
