"""Traces of a few steps of sampler, guard and trainer, for xprof and Perfetto.

    with profiled(Profile(folder, steps=5)):
        ...           # whoever takes steps says so: step("train", arrays of the step before)

    steps of training    1 2 3 | 4 5 6 7 8 | 9 ...
                        warm-up    traced

Each kind of step is traced once, after a warm-up in which programs are compiled. A trace ends after
so many steps, whatever their kind: where a guard reads between two windows of the sampler, it shows
both. Outside of `profiled` a step costs a comparison.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import EnvironmentFault, first_line

_log = logging.getLogger(__name__)
WARM_UP = 3  # steps of a kind before it is traced


@dataclass(frozen=True)
class Profile:
    """What is traced, and where to.

    Attributes:
        folder: a trace goes to folder/KIND-hostN.
        steps: of each trace.
    """

    folder: Path
    steps: int = 5


class _Tracer:
    """Counts steps, starts and ends traces; JAX has one at a time."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.taken: Counter[str] = Counter()
        self.traced: list[str] = []
        self._remaining = 0  # steps of the trace that runs

    def step(self, kind: str, arrays: Any) -> None:
        """Before a step: `arrays` are those that the step before it makes."""
        self.taken[kind] += 1
        if self._remaining:
            self._remaining -= 1
            if not self._remaining:
                self.end(arrays)
        due = self.taken[kind] > WARM_UP and kind not in self.traced
        if due and not self._remaining:
            self._begin(kind, arrays)

    def _begin(self, kind: str, arrays: Any) -> None:
        import jax

        jax.block_until_ready(arrays)
        folder = self.profile.folder / f"{kind}-host{jax.process_index()}"
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # calls of Python would hide the rest
        jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)
        self.traced.append(kind)
        self._remaining = self.profile.steps

    def end(self, arrays: Any = ()) -> None:
        """Writes the trace that runs, when the devices have made `arrays`."""
        import jax

        jax.block_until_ready(arrays)
        self._remaining = 0
        jax.profiler.stop_trace()
        _log.info("profile: traced %s in %s", self.traced[-1], self.profile.folder)

    def close(self) -> None:
        """At the end of the work: ends a trace of fewer steps, and says what was not traced."""
        if self._remaining:
            try:
                self.end()
            except Exception as error:  # the run's own result, or its error, matters more
                _log.warning("profile: the trace could not be written: %s", first_line(error))
        if not self.taken:
            _log.warning("profile: nothing is traced: no step was taken; what is there is kept")
        for kind, taken in self.taken.items():
            if kind not in self.traced:
                _log.warning(
                    "profile: %s is not traced: it took %d steps, of which %d are a warm-up",
                    kind, taken, WARM_UP,
                )  # fmt: skip


_tracer: _Tracer | None = None


@contextmanager
def profiled(profile: Profile | None) -> Iterator[None]:
    """Traces what is done inside; nothing where `profile` is None.

    Raises:
        EnvironmentFault: the folder cannot be made.
    """
    global _tracer
    if profile is None:
        yield
        return
    try:
        profile.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot write {profile.folder}: {error.strerror}") from None
    _tracer = _Tracer(profile)
    try:
        yield
    finally:
        tracer, _tracer = _tracer, None
        tracer.close()


def steps_to_trace() -> int:
    """Calls of `step` until a kind's trace has been written; 0 outside of `profiled`."""
    return 0 if _tracer is None else WARM_UP + _tracer.profile.steps + 1


def step(kind: str, arrays: Any = ()) -> None:
    """Says that a step is about to be taken.

    Args:
        kind: names the trace: sample, guard, train, or a program that is timed.
        arrays: made by the step before it, on devices; waited for where a trace begins or ends.
    """
    if _tracer is not None:
        _tracer.step(kind, arrays)
