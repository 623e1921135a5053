"""Rows to packed batches to weights: LoRA or full fine-tuning, with checkpoints that resume.

Objectives, divergences, optimisers and trackers are folders of variants, a file each.
"""

from thinksafe_jax.training.abstract import abstract_arguments, shaped
from thinksafe_jax.training.batches import Batch, Step, StepSource, pack
from thinksafe_jax.training.examples import Example, build_example, build_examples
from thinksafe_jax.training.heldout import heldout_loss, hold_out
from thinksafe_jax.training.losses import default_chunk
from thinksafe_jax.training.mesh import TrainingMesh
from thinksafe_jax.training.optimizers import make_optimizer
from thinksafe_jax.training.packing import Layout
from thinksafe_jax.training.policy_logprobs import (
    LogprobGap,
    SampledRow,
    logprob_gap,
    make_row_logprobs,
)
from thinksafe_jax.training.row_states import RowStates
from thinksafe_jax.training.setup import TrainingSetup, lora_config
from thinksafe_jax.training.step import make_step
from thinksafe_jax.training.streams import Stream, StreamedExample, given_streams
from thinksafe_jax.training.trackers import require_trackers, track, tracking
from thinksafe_jax.training.trainer import Hooks, TrainResult, train

__all__ = [
    "Batch",
    "Example",
    "Hooks",
    "Layout",
    "LogprobGap",
    "RowStates",
    "SampledRow",
    "Step",
    "StepSource",
    "Stream",
    "StreamedExample",
    "TrainResult",
    "TrainingMesh",
    "TrainingSetup",
    "abstract_arguments",
    "build_example",
    "build_examples",
    "default_chunk",
    "given_streams",
    "heldout_loss",
    "hold_out",
    "logprob_gap",
    "lora_config",
    "make_optimizer",
    "make_row_logprobs",
    "make_step",
    "pack",
    "require_trackers",
    "shaped",
    "track",
    "tracking",
    "train",
]
