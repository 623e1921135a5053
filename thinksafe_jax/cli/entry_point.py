"""The console script: the commands in the order of the help, and an exit code for every end."""

import sys

from thinksafe_jax import hosts
from thinksafe_jax.cli import (
    analysis,
    configs,
    doctor,
    evaluation,
    pipeline,
    planning,
    synthesis,
    weights,
)
from thinksafe_jax.cli.app import app
from thinksafe_jax.errors import ThinkSafeError

for _commands in (
    pipeline,
    evaluation,
    analysis,
    synthesis,
    planning,
    configs,
    doctor,
    weights,
):
    _commands.register(app)


def main() -> None:
    """Console script: one red line and the right exit code for every error meant for users."""
    from thinksafe_jax.terminal import print_line, setup_logging

    setup_logging()
    try:
        _run_app()
    except ThinkSafeError as error:
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


def _run_app() -> None:
    """The application, which ends by SystemExit; after success the others are waited for."""
    try:
        app()
    except SystemExit as end:
        if not end.code:
            hosts.leave()
        raise
