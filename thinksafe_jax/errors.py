"""The errors a user meets. Each class fixes the process's exit code; the message names the fix."""


class ThinkSafeError(Exception):
    """Base of every error that is shown to the user as one plain message, without a traceback."""

    exit_code = 1


class ConfigError(ThinkSafeError):
    """Wrong usage or configuration: unknown key, wrong type, a value out of its range."""

    exit_code = 2


class InputError(ThinkSafeError):
    """Bad input or a bad artefact: prompt files, rows, checkpoints, adapters."""

    exit_code = 3


class EnvironmentFault(ThinkSafeError):
    """The machine or its storage: read-only or full disk, missing device, missing extra."""

    exit_code = 4


class RetryLater(ThinkSafeError):
    """The same command may well succeed later: a preempted host, a stuck peer."""

    exit_code = 75


class Terminated(ThinkSafeError):
    """SIGTERM or Ctrl-C arrived; the unit of work in progress was saved first."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by signal {signum}; run the same command again to resume")
        self.signum, self.exit_code = signum, 128 + signum
