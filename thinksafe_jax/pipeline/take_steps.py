"""The trainer in a run directory: checkpoints, metrics, trackers and a progress line."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from thinksafe_jax.runs import Run
from thinksafe_jax.terminal import Progress
from thinksafe_jax.training import (
    Hooks,
    StepSource,
    TrainingSetup,
    TrainResult,
    track,
    tracking,
    train,
)

log = logging.getLogger(__name__)
Tree = Any
Evaluate = Callable[[int, Tree], Mapping[str, float]]


def take_steps(
    run: Run,
    params: Tree,
    setup: TrainingSetup,
    source: StepSource,
    *,
    evaluate: Evaluate | None = None,
    shown: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> TrainResult:
    """Trains on the steps of `source`, from the newest checkpoint of the run on.

    Args:
        params: the base model, where training has it.
        evaluate: the loss on rows held out, see `Hooks`.
        shown: what the progress line shows of a step's metrics; default the loss.
    """
    cfg = run.recipe.training
    warn_of_no_rate(setup, source.num_steps)
    with (
        tracking(cfg.trackers if run.group.first else [], run.path) as trackers,
        Progress("train", source.num_steps, unit="steps") as bar,
    ):

        def note(**values: Any) -> None:
            run.log("train", **values)
            if "loss" not in values:
                track(trackers, values)
            else:
                numbers = {"loss": values["loss"]} if shown is None else shown(values)
                track(trackers, {**values, **numbers})
                bar.done = values["step"] - 1
                bar.advance(**numbers, tokens_per_s=values["tokens_per_second"])

        result = train(
            params,
            setup,
            source,
            seed=run.recipe.seed,
            checkpoint_dir=run.path / "checkpoints",
            hooks=Hooks(note, run.check_stop, evaluate, cfg.evaluate_every),
        )
        bar.done = source.num_steps
    return result


def warn_of_no_rate(setup: TrainingSetup, steps: int) -> None:
    """Says that a run of one step learns nothing: warm-up begins at rate 0, as transformers has it.

    Args:
        steps: of the whole run.
    """
    if steps == 1 and not setup.optimizer.learning_rate(setup.config, jnp.int32(0), steps):
        log.warning(
            "the run has one step, whose learning rate is 0 by training.warmup_ratio=%g: nothing "
            "is learnt. Set it to 0, or train on more rows or epochs", setup.config.warmup_ratio,
        )  # fmt: skip
