"""What the commands share that compile programs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

HloFolder = Annotated[
    Path | None,
    typer.Option(
        "--hlo",
        metavar="DIR",
        help="Write the compiler's text (HLO) of every program here, as "
        "train-step-Qwen3-8B-v5e-8.hlo.txt.",
    ),
]


@contextmanager
def writing_hlo(folder: Path | None) -> Iterator[None]:
    """The texts of all programs go to the folder, and a line says how many, or why none."""
    if folder is None:
        yield
        return
    from thinksafe_jax.planning import hlo_written_to

    with hlo_written_to(folder) as texts:
        yield
    if texts.files:
        print(f"HLO of {len(texts.files)} program(s) in {folder}")
    else:
        print(f"no HLO in {folder}: nothing was compiled; rows that --json has are kept")


def quiet_compiler() -> None:
    """Keeps back the compiler's remarks on each program, and keeps what it compiled for next time.

    To be called before JAX is imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from thinksafe_jax.machine import enable_compile_cache

    enable_compile_cache()
