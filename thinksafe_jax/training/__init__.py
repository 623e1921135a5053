"""Training: rows to examples, packed batches, LoRA or full fine-tuning, checkpoints that resume."""

from thinksafe_jax.training.batches import Batches
from thinksafe_jax.training.checkpoints import CheckpointStore
from thinksafe_jax.training.examples import Example, build_example, build_examples
from thinksafe_jax.training.heldout import heldout_loss, hold_out
from thinksafe_jax.training.losses import chunked_loss
from thinksafe_jax.training.placement import Placement
from thinksafe_jax.training.trackers import track, tracking
from thinksafe_jax.training.trainer import TrainResult, lora_config, train

__all__ = [
    "Batches",
    "CheckpointStore",
    "Example",
    "Placement",
    "TrainResult",
    "build_example",
    "build_examples",
    "chunked_loss",
    "heldout_loss",
    "hold_out",
    "lora_config",
    "track",
    "tracking",
    "train",
]
