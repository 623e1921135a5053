"""Commands share one process here, as in tests/cli."""

from tests.cli.conftest import logging_as_before

__all__ = ["logging_as_before"]
