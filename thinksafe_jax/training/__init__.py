"""Training: rows to examples, packed batches, LoRA or full fine-tuning, checkpoints that resume."""

from thinksafe_jax.training.abstract import abstract_arguments, shaped
from thinksafe_jax.training.examples import build_example, build_examples
from thinksafe_jax.training.heldout import heldout_loss, hold_out
from thinksafe_jax.training.losses import default_chunk
from thinksafe_jax.training.mesh import Placement
from thinksafe_jax.training.optimizer import make_optimizer
from thinksafe_jax.training.step import make_step
from thinksafe_jax.training.trackers import track, tracking
from thinksafe_jax.training.trainer import TrainResult, lora_config, train

__all__ = [
    "Placement",
    "TrainResult",
    "abstract_arguments",
    "build_example",
    "build_examples",
    "default_chunk",
    "heldout_loss",
    "hold_out",
    "lora_config",
    "make_optimizer",
    "make_step",
    "shaped",
    "track",
    "tracking",
    "train",
]
