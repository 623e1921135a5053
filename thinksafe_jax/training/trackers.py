"""TensorBoard and Weights & Biases beside metrics.jsonl, for those who installed the extras."""

import importlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.storage import content_hash


class Tracker(Protocol):
    """Takes the numbers of a step."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run_dir: Path):
        writer = _extra("tensorboardX", "tensorboard").SummaryWriter
        self._writer = writer(str(run_dir / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """Writes what is still held back."""
        self._writer.close()


class WandB:
    """A run of the project thinksafe, the same when training is resumed.

    WANDB_MODE=offline keeps it in RUN/wandb.
    """

    def __init__(self, run_dir: Path):
        self._run = _extra("wandb", "wandb").init(
            project="thinksafe",
            id=_begun(run_dir),
            name=run_dir.name,
            dir=str(run_dir),
            resume="allow",
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def _begun(run_dir: Path) -> str:
    """16 hex digits that stay the same until the directory is begun anew."""
    manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    return content_hash(str(run_dir.resolve()), manifest["created"])[:16]


_TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB}


@contextmanager
def tracking(names: Sequence[str], run_dir: Path) -> Iterator[list[Tracker]]:
    """The trackers that a recipe names, closed at the end.

    Raises:
        EnvironmentFault: the package of one is not installed; said before anything is computed.
    """
    with ExitStack() as stack:
        trackers = [_TRACKERS[name](run_dir) for name in names]
        for tracker in trackers:
            stack.callback(tracker.close)
        yield list(trackers)


def track(trackers: Sequence[Tracker], line: dict[str, Any]) -> None:
    """Gives a line of metrics to every tracker: its finite numbers."""
    values = {
        name: float(value)
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }
    for tracker in trackers:
        tracker.log(line["step"], values)


def _extra(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise EnvironmentFault(
            f"training.trackers names {extra}, but {module} is not installed: "
            f"pip install 'thinksafe-jax[{extra}]'"
        ) from None
