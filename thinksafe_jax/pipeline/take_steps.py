"""The trainer in a run directory: checkpoints, metrics, trackers and a progress line."""

from collections.abc import Callable, Mapping
from typing import Any

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
