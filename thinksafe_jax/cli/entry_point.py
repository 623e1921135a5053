"""The console script: the commands in the order of the help, and an exit code for every end."""

import sys

from thinksafe_jax import hosts
from thinksafe_jax.cli import (
    analysis,
    chat,
    configs,
    doctor,
    evaluation,
    init,
    pipeline,
    planning,
    report,
    study,
    synthesis,
    weights,
)
from thinksafe_jax.cli.app import app
from thinksafe_jax.errors import EnvironmentFault, Terminated, ThinkSafeError, first_line
from thinksafe_jax.machine import at_home

for _commands in (
    pipeline,
    report,
    study,
    evaluation,
    chat,
    analysis,
    synthesis,
    planning,
    init,
    configs,
    doctor,
    weights,
):
    _commands.register(app)


def main() -> None:
    """Console script: one red line and the right exit code for every error meant for users."""
    from thinksafe_jax.terminal import print_line, setup_logging

    setup_logging()
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    try:
        _run_app()
    except (ThinkSafeError, OSError) as raised:
        error = raised if isinstance(raised, ThinkSafeError) else _of_the_system(raised)
        if isinstance(error, Terminated):  # asked for, so no error
            print_line(error)
        else:
            print_line(f"error: {error}", style="red")
        hosts.fail(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code:
            hosts.fail("ended early; its own message says why", int(end.code))
        raise
    except BaseException:
        hosts.fail("failed; its own message says why", 1)
        raise


def _at_home(argument: str) -> str:
    """`--out=~/page.html` as a shell makes it of `--out ~/page.html`: a path in the home folder."""
    name, equals, value = argument.partition("=")
    return f"{name}={at_home(value)}" if equals and name.startswith("--") else argument


def _of_the_system(error: OSError) -> EnvironmentFault:
    """What the system refuses is no fault of the program: a name too long, a folder that is gone.

    Where a file is read or written the message says more; this is for the rest, as a path that is
    only looked for.
    """
    what = error.strerror or first_line(error)
    place = "" if error.filename is None else f"{str(error.filename)[:200]}: "
    return EnvironmentFault(f"{place}{what}")


def _run_app() -> None:
    """The application, which ends by SystemExit; after success the others are waited for."""
    try:
        app()
    except SystemExit as end:
        if not end.code:
            hosts.leave()
        raise
