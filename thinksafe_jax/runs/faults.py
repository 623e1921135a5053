"""Deliberate kills, so that tests can show that nothing is lost: `THINKSAFE_FAULT=after_write:3`.

`after_write:N` dies by SIGKILL right after the Nth append of the process reached the disk and
before anything else records it; `torn_write:N` dies in the middle of the Nth append.
"""

import os
import signal
from typing import Any

from thinksafe_jax.errors import ConfigError

_appends = 0


def after_write() -> None:
    """Called when an append is complete."""
    global _appends
    _appends += 1
    if _armed("after_write", _appends):
        os.kill(os.getpid(), signal.SIGKILL)


def tear_write(file: Any, data: bytes) -> None:
    """Called before an append: writes half of it and dies, when that was asked for."""
    if _armed("torn_write", _appends + 1):
        file.write(data[: len(data) // 2])
        os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)


def _armed(name: str, count: int) -> bool:
    wanted = os.environ.get("THINKSAFE_FAULT")
    if not wanted:
        return False
    kind, _, number = wanted.partition(":")
    if kind not in ("after_write", "torn_write") or not number.isdecimal():
        raise ConfigError(
            f"THINKSAFE_FAULT={wanted}: expected after_write:N or torn_write:N, or nothing at all"
        )
    return kind == name and int(number) == count
