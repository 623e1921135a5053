"""Weights & Biases: a run of the project thinksafe, the same when training is resumed."""

from pathlib import Path

from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.storage import content_hash
from thinksafe_jax.training.trackers import import_extra


class WandB:
    """Values under `train/`; WANDB_MODE=offline keeps them in RUN/wandb."""

    package = "wandb"

    def __init__(self, run_dir: Path):
        self._run = import_extra(self.package, "wandb").init(
            project="thinksafe",
            id=_run_id(run_dir),
            name=run_dir.name,
            dir=str(run_dir),
            resume="allow",
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Sends the values of one step."""
        self._run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def _run_id(run_dir: Path) -> str:
    """16 hex digits that stay the same until the directory is begun anew."""
    manifest = read_json_object(run_dir / "manifest.json")
    return content_hash(str(run_dir.resolve()), manifest["created"])[:16]


TRACKER = WandB
