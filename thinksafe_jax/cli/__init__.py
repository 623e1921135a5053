"""The commands: each file parses, calls the folder that it is named after, and prints.

Modules that compute are imported inside the commands, so that `--help` answers at once.
"""

from thinksafe_jax.cli.entry_point import app, main

__all__ = ["app", "main"]
