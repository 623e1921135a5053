"""TensorBoard: event files in RUN/tensorboard."""

from pathlib import Path

from thinksafe_jax.training.trackers import import_extra


class TensorBoard:
    """Scalars under `train/`."""

    package = "tensorboardX"

    def __init__(self, run_dir: Path):
        writer = import_extra(self.package, "tensorboard").SummaryWriter
        self._writer = writer(str(run_dir / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Adds one scalar for each value."""
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """Writes what is still held back."""
        self._writer.close()


TRACKER = TensorBoard
