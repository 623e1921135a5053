"""Math-Verify in processes of its own, with a time limit that holds.

Math-Verify limits itself with SIGALRM, which works in a main thread only and not inside C loops.
Here each comparison runs in a worker process; one that exceeds the limit is killed and replaced,
and the others go on. May be called from any thread.
"""

import contextlib
import importlib.util
import json
import os
import queue
import select
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.errors import EnvironmentFault, MissingRequirement

_SCRIPT = Path(__file__).with_name("equality_worker.py")
_START = 60.0  # seconds that importing sympy may take on a busy machine
_FIX = "pip install 'math-verify[antlr4-13-2]'"


@dataclass(frozen=True)
class Pair:
    """Two texts to compare; `how` is "verify" (Math-Verify) or "symbolic" (the authors' rule)."""

    answer: str
    gold: str
    how: str = "verify"


class Equality:
    """A pool of comparing processes; use it in a `with` block.

    Args:
        workers: processes; default one per processor, at most 8. None starts before it is needed.
        limit: seconds for one comparison.

    Raises:
        EnvironmentFault: on first use, where Math-Verify is not installed.
    """

    def __init__(self, workers: int | None = None, limit: float = 6.0):
        self.workers, self.limit = workers or min(8, os.cpu_count() or 1), limit
        self.killed = 0
        self._known: dict[Pair, bool | None] = {}
        self._idle: queue.Queue[_Worker | None] = queue.Queue()
        for _ in range(self.workers):
            self._idle.put(None)

    def compare(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Whether the texts of each pair are equal; None where the time limit ended it."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            require_math_verify()
            with ThreadPoolExecutor(self.workers) as threads:
                self._known.update(zip(new, threads.map(self._compare_pair, new), strict=True))
        return [self._known[pair] for pair in pairs]

    def _compare_pair(self, pair: Pair) -> bool | None:
        worker = self._idle.get()
        try:
            worker = worker or _Worker(pair.how)
            return worker.ask(pair, self.limit)
        except TimeoutError:
            self.killed += 1
            worker = worker and worker.kill()
        except (OSError, ValueError):  # it died of its memory limit, or wrote half a line
            worker = worker and worker.kill()
        finally:
            self._idle.put(worker)
        return None

    def __enter__(self) -> "Equality":
        return self

    def __exit__(self, *_: object) -> None:
        for _place in range(self.workers):
            worker = self._idle.get()
            if worker is not None:
                worker.kill()
            self._idle.put(None)


def require_math_verify() -> None:
    """Say what to install where Math-Verify is absent.

    Raises:
        MissingRequirement: it is.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise MissingRequirement(
            "answers that are no plain numbers are compared by Math-Verify, which is not "
            f"installed; {_FIX}"
        )


class _Worker:
    """One process; in a session of its own, so that Ctrl-C in the terminal does not reach it.

    Args:
        how: of the pair that it is started for; what compares so is imported now, which is not the
            pair's fault.

    Raises:
        MissingRequirement: Math-Verify cannot be used here.
        EnvironmentFault: the process cannot be started.
    """

    def __init__(self, how: str):
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentFault(f"no process that compares answers: {error}") from None
        try:
            reply = self._exchange(Pair("1", "1", how), _START)
        except (OSError, ValueError) as error:
            self.kill()
            raise EnvironmentFault(
                f"the process that compares answers did not start within {_START:g} s "
                f"({type(error).__name__}); the machine may be out of memory"
            ) from None
        if not reply["equal"]:
            self.kill()
            why = reply.get("error", "1 is not 1")
            raise MissingRequirement(
                f"Math-Verify is installed and cannot compare answers ({why}); {_FIX}"
            )

    def ask(self, pair: Pair, limit: float) -> bool:
        """Whether the pair is equal.

        Raises:
            TimeoutError: it is not told within the limit.
            OSError, ValueError: the process died of it.
        """
        return self._exchange(pair, limit)["equal"]

    def _exchange(self, pair: Pair, limit: float) -> dict[str, Any]:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None and pipe_out is not None
        request = {"how": pair.how, "answer": pair.answer, "gold": pair.gold}
        pipe_in.write(json.dumps(request).encode() + b"\n")
        pipe_in.flush()
        answered, _, _ = select.select([pipe_out], [], [], limit)
        if not answered:
            raise TimeoutError
        return json.loads(pipe_out.readline())

    def kill(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
