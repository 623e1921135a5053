"""The command line sets up logging for its process; here many commands share one."""

import logging

import pytest


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch):
    logger = logging.getLogger("thinksafe_jax")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    level = logger.level
    yield
    logger.setLevel(level)
