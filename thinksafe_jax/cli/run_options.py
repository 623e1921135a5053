"""Groups of options of the commands that run stages."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from thinksafe_jax.cli.arguments import MOST, NewVerdicts, local_folder, number
from thinksafe_jax.profiling import Profile, profiled


@dataclass(frozen=True)
class AnewOptions:
    """What is made anew of what lies in the run directory."""

    new_run: Annotated[
        bool,
        typer.Option("--new-run", help="Delete what an earlier run left there and start afresh."),
    ] = False
    new_verdicts: NewVerdicts = False
    new_training: Annotated[
        bool,
        typer.Option(
            "--new-training",
            help="Train anew with other training.* on the same samples and verdicts; the earlier "
            "training is kept in RUN/trainings.",
        ),
    ] = False


Trial = Annotated[
    int | None,
    number(
        1,
        MOST,
        "At most so many prompts, and questions of each suite; report and cards say that it "
        "is a trial. It goes to a folder of its own: --run-dir, or the recipe's with -trial "
        "behind it.",
    ),
]


@dataclass(frozen=True)
class SizeOptions:
    """How much is asked."""

    limit: Annotated[
        int | None,
        number(1, MOST, "Prompts in all, every kind in its own proportion: synthesis.limit."),
    ] = None
    trial: Trial = None


@dataclass(frozen=True)
class ProfileOptions:
    """What is traced for a profiler."""

    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a trace of a few steps of each program (sampler, guard, trainer) here, for "
            "xprof and Perfetto.",
            parser=local_folder,
        ),
    ] = None
    profile_steps: Annotated[int, number(1, 1000, "With --profile: steps of each trace.")] = 5

    def tracing(self) -> AbstractContextManager[None]:
        """Within it steps are traced, where that was asked for."""
        folder = self.profile
        return profiled(None if folder is None else Profile(folder, self.profile_steps))
