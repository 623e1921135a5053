"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from thinksafe_jax.errors import ConfigError, quoted

MOST = 2**31 - 1  # of things that are only counted
MOST_TOKENS = 10_000_000  # of a sequence: models' contexts end there
MOST_ROWS = 65_536  # computed together


def number(low: int, high: int, help: str, **more: Any) -> Any:
    """An option that takes a whole number from `low` to `high`.

    Any other is refused with itself and with both ends, before anything is computed with it.

    Args:
        more: as `typer.Option` takes it.
    """

    def within(value: int | None) -> int | None:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{quoted(value)} is no number from {low:,} to {high:,}")
        return value

    return typer.Option(help=help, callback=within, **more)


def run_directory(text: str) -> Path:
    """The local folder of a run directory; for gs:// and s3:// its copy, fetched first.

    Of a training, RUN/trainings/NAME, that is a folder in the copy of the run, which has its data.
    """
    from thinksafe_jax.storage import is_url, run_folder

    run, inside, name = text.rstrip("/").rpartition("/trainings/")
    if inside and is_url(text) and "/" not in name:
        return run_folder(run) / "trainings" / name
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


def output_file(text: str) -> Path:
    """A file on a disk that can be written, made sure of before what will be in it is computed.

    Raises:
        ConfigError: a bucket's URL, or a folder.
        EnvironmentFault: its folder cannot be made or written.
    """
    from thinksafe_jax.storage import prepare_directory

    file = local_folder(text)
    if not file.name or file.is_dir():
        raise ConfigError(f"{text or 'an empty name'}: the name of a file is expected")
    prepare_directory(file.parent)
    return file


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
    Path | None,
    typer.Option(
        "--json",
        help="Write the figures here, too, as JSON.",
        parser=output_file,
        metavar="FILE",
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
