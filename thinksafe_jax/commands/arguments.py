"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax.errors import ConfigError


def run_directory(text: str) -> Path:
    """The local folder of a run directory; for gs:// and s3:// its copy, fetched first."""
    from thinksafe_jax.runs import run_folder

    return run_folder(text)


def local_folder(text: str) -> Path:
    """A folder on a disk. A path would take gs://bucket for a folder `gs:` beside the others.

    Raises:
        ConfigError: a bucket's URL.
    """
    from thinksafe_jax.runs.objects import is_url

    if is_url(text):
        raise ConfigError(f"{text}: this is written to a disk only; name a local folder")
    return Path(text)


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
