"""Counts compilations: after warm-up there must be none, and who waits should know for what."""

from dataclasses import dataclass

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


@dataclass
class Compiles:
    """Compilations of this process so far."""

    count: int = 0
    seconds: float = 0.0


_total = Compiles()


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event == _EVENT:
        _total.count += 1
        _total.seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def compiles_so_far() -> Compiles:
    """A snapshot; the difference of two is what happened between them."""
    return Compiles(_total.count, _total.seconds)
