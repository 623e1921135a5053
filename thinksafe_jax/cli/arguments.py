"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax.errors import ConfigError


def run_directory(text: str) -> Path:
    """The local folder of a run directory; for gs:// and s3:// its copy, fetched first."""
    from thinksafe_jax.storage import run_folder

    return run_folder(text)


def local_folder(text: str) -> Path:
    """A folder on a disk. A path would take gs://bucket for a folder `gs:` beside the others.

    Raises:
        ConfigError: a bucket's URL.
    """
    from thinksafe_jax.storage import is_url

    if is_url(text):
        raise ConfigError(f"{text}: this is written to a disk only; name a local folder")
    return Path(text)


Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Recipe (YAML); paths in it start from here, not from it."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the recipe as [cyan]key.sub=value[/], for example training.epochs=1.",
        show_default=False,
    ),
]
SkipBadRows = Annotated[
    bool,
    typer.Option("--skip-bad-rows", help="Leave unreadable rows out and count them (else exit 3)."),
]
NewVerdicts = Annotated[
    bool,
    typer.Option(
        "--new-verdicts",
        help="Judge anew, with another guard or judge if need be: delete what they said and what "
        "was made of it, keep what the models wrote.",
    ),
]
JsonOut = Annotated[
    Path | None, typer.Option("--json", help="Write the figures here, too, as JSON.")
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
