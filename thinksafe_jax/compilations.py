"""How many programs this process has compiled, by what JAX reports of itself."""

from dataclasses import dataclass

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


@dataclass
class Compilations:
    """Programs compiled so far, those taken from JAX's cache on the disk among them."""

    count: int = 0
    seconds: float = 0.0


_total = Compilations()


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event == _EVENT:
        _total.count += 1
        _total.seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def compilations_so_far() -> Compilations:
    """A snapshot; the difference of two is what happened between them."""
    return Compilations(_total.count, _total.seconds)
