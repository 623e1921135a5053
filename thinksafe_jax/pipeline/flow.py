"""The whole flow, top to bottom. Each stage skips what is done and resumes what was cut short.

sample ─► filter ─► train ─► export ─► evaluate ─► report

An on-policy recipe has no dataset: its train stage draws, judges and trains step by step.

rollouts and train ─► export ─► evaluate ─► report
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.config import Recipe, flat
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.hosts import compare_hosts, current
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.machine import enable_compile_cache
from thinksafe_jax.pipeline.preflight import preflight
from thinksafe_jax.pipeline.run_models import check_models, record_models
from thinksafe_jax.pipeline.session import Session, exported, exported_weights
from thinksafe_jax.pipeline.stages import (
    evaluate_both,
    export,
    filter_samples,
    report,
    sample,
    save_merged,
    train_model,
)
from thinksafe_jax.runs import (
    DATA_STAGES,
    WHOLE,
    Part,
    Run,
    data_folder,
    refuse_another,
    refuse_foreign,
    training_folders,
)
from thinksafe_jax.storage import content_hash, refresh, run_folder, shown
from thinksafe_jax.version import __version__

log = logging.getLogger(__name__)


def run_pipeline(
    recipe: Recipe,
    run_dir: Path,
    *,
    stages: Sequence[str] | None = None,
    new_run: bool = False,
    new_verdicts: bool = False,
    new_training: bool = False,
    skip_bad_rows: bool = False,
) -> dict[str, Any] | None:
    """Runs the stages of a recipe in a run directory.

    Args:
        recipe: what to do; a directory begun with another one is refused.
        run_dir: where everything goes.
        stages: names out of `stages_of(recipe)`; all of them by default.
        new_run: delete what an earlier run left there.
        new_verdicts: delete what guard and judge said, and all that was made of it; keep what the
            models wrote.
        new_training: where `training.*` is another, set the earlier one aside in RUN/trainings.
        skip_bad_rows: leave out unreadable rows instead of stopping at them.

    Returns:
        The content of report/summary.json, where the run has come that far.

    Raises:
        ThinkSafeError: all that is missing, in one message; see `preflight`.
        InputError: the models have other files than those that the run began with.
    """
    anew = {"new_run": new_run, "new_verdicts": new_verdicts, "new_training": new_training}
    _refuse_together(recipe, anew)
    enable_compile_cache()
    compare_hosts(current(), "config", {key: repr(value) for key, value in flat(recipe).items()})
    run_dir = run_folder(run_dir)
    wanted = _wanted(recipe, stages, run_dir)
    session = Session(recipe, data_folder(run_dir) / "models.json")
    _require_ready(session, run_dir, wanted, **anew)
    with Run.open(recipe, run_dir, skip_bad_rows=skip_bad_rows, part=WHOLE, **anew) as run:
        training = bool({"train", "export"} & set(wanted))
        session.check_hosts_agree(run.group, training=training)
        if wanted != ["report"]:  # which reads what is there
            check_models(run)
        for number, name in enumerate(wanted, start=1):
            # all of them together come in order; a training has none that make its data
            if (stages or run.data != run.path) and run.group.first:
                _require_earlier(run, session, name)
            place = f"stage {number} of {len(wanted)}, " if len(wanted) > 1 else ""
            _run_stage(run, session, name, place, again=stages is not None and name == "report")
        summary = run.path / "report/summary.json"
        return read_json_object(summary) if summary.exists() else None


def _require_ready(
    session: Session,
    run_dir: Path,
    stages: Sequence[str],
    new_run: bool = False,
    new_verdicts: bool = False,
    new_training: bool = False,
) -> None:
    """Ends here, with all that is missing, before anything is begun or deleted; see `preflight`."""
    group = current()
    if group.first:  # a run of something else needs nothing but another place
        refuse_foreign(run_dir)
    if not new_run and group.first:
        other = {"other_guards": new_verdicts, "other_training": new_training}
        refuse_another(session.recipe, run_dir, **other)
    keeps = (
        () if new_run else ("sample",) if new_verdicts else DATA_STAGES if new_training else None
    )
    group.beat("preflight")
    faults = preflight(session, run_dir, stages, keeps=keeps)
    faults.gather(group, "preflight")
    faults.refuse()


def _refuse_together(recipe: Recipe, anew: Mapping[str, bool]) -> None:
    """Refuses a new training that could keep nothing.

    Raises:
        ConfigError: samples or verdicts begin anew as well, or are drawn by the training itself.
    """
    if not anew["new_training"]:
        return
    if anew["new_run"] or anew["new_verdicts"]:
        raise ConfigError(
            "--new-training keeps samples and verdicts; give it without --new-run or --new-verdicts"
        )
    refuse_loop(recipe, "--new-training")


def refuse_loop(recipe: Recipe, option: str) -> None:
    """Refuses an option that trains anew on the same data, where there are none.

    Raises:
        ConfigError: the recipe is on-policy.
    """
    if method := recipe.on_policy.method:
        raise ConfigError(
            f"{option} trains on the samples and verdicts of the run, but on_policy.method "
            f"{method} draws its own in every step; use another --run-dir"
        )


def _wanted(recipe: Recipe, stages: Sequence[str] | None, run_dir: Path) -> list[str]:
    order, run = stages_of(recipe), data_folder(run_dir)
    for name in stages or ():
        if name not in order:
            raise ConfigError(
                f"on_policy.method {recipe.on_policy.method} has no stage {name}: it samples while "
                f"it trains. Its stages are {', '.join(order)}"
            )
        if run != run_dir and name in DATA_STAGES:
            raise ConfigError(
                f"{shown(run_dir)} is a training of {shown(run)}, which has the data: "
                f"thinksafe {name} {shown(run)}"
            )
    return list(stages or [n for n in order if run == run_dir or n not in DATA_STAGES])


def _run_stage(
    run: Run, session: Session, name: str, place: str = "", *, again: bool = False
) -> None:
    """Does the work of a stage, unless it is done with the same inputs; all processes at once.

    Args:
        place: of the stage among the others, as its line in the log begins.
        again: do it all the same, as a page that was asked for by name.
    """
    inputs = _inputs(run, session, name) if run.group.first else ""
    done = run.group.first and not again and _is_done(run, session, name, inputs)
    if run.group.decide(f"is {name} done", done):
        log.info("%s%s: already done", place, name)
        return
    if place:
        log.info("%s%s", place, name)
    run.check_stop()
    run.group.beat(name)
    facts = STAGES[name].work(run, session)
    record_models(run)
    run.mark_done(name, inputs, **(facts or {}))
    run.group.barrier(f"{name} done", run.check_stop)
    refresh(run.path)


def run_part(recipe: Recipe, run_dir: Path, part: Part, *, skip_bad_rows: bool = False) -> None:
    """Samples a part of the prompts, beside other hosts that sample theirs.

    No host waits for another. The stage itself is done when `sample` is run as a whole afterwards:
    it reads the rows of all parts, samples what is missing, and counts each row once.

    Raises:
        ConfigError: the same part, or the whole, is being worked on by another process.
    """
    enable_compile_cache()
    run_dir = run_folder(run_dir)
    _wanted(recipe, ["sample"], run_dir)
    session = Session(recipe, run_dir / "models.json")
    _require_ready(session, run_dir, ["sample"])
    with Run.open(recipe, run_dir, skip_bad_rows=skip_bad_rows, part=part) as run:
        check_models(run)
        sample(run, session)


def export_merged(recipe: Recipe, run_dir: Path) -> Path:
    """RUN/merged: the student with the exported adapter folded in, as a Hugging Face checkpoint.

    Raises:
        InputError: nothing is exported yet.
    """
    with Run.open(recipe, run_dir) as run:
        check_models(run)
        session = Session(recipe, run.data / "models.json")
        if exported(run.path).name != "merged":
            save_merged(run, session, session.tuned(run.path))
    return run_dir / "merged"


@dataclass(frozen=True)
class Stage:
    """One step of the flow.

    Attributes:
        work: does it; what it returns is kept in the manifest.
        output: what it leaves in the run directory, whose path it is given.
        inputs: everything its result depends on, for `content_hash`.
    """

    work: Callable[[Run, Session], dict[str, Any] | None]
    output: Callable[[Path], Path]
    inputs: Callable[[Session, Path], Sequence[Any]]


def _sample_inputs(session: Session, path: Path) -> Sequence[Any]:
    r = session.recipe
    # between the attempts it is the guard that decides which prompts are asked again
    guard = r.guard if r.synthesis.attempts > 1 else None
    return r.student, r.synthesis, r.seed, session.prompt_hashes, guard, *r.engine.drawn_with


def _filter_inputs(session: Session, path: Path) -> Sequence[Any]:
    r = session.recipe
    return r.guard, r.synthesis, data_folder(path) / "samples"


def _train_inputs(session: Session, path: Path) -> Sequence[Any]:
    r = session.recipe
    if r.on_policy.method:
        asked = r.synthesis, session.prompt_hashes
        drawn = r.on_policy.comparable, r.guard, *asked, *r.engine.drawn_with
        return r.student, r.training, r.seed, *drawn
    return r.student, r.training, r.seed, data_folder(path) / "dataset/train.jsonl"


def _evaluate_inputs(session: Session, path: Path) -> Sequence[Any]:
    r, questions = session.recipe, session.question_hashes
    asked = r.evaluation, questions, r.judging, r.student, r.seed
    return *asked, *exported_weights(path), *r.engine.drawn_with


def _report_inputs(session: Session, path: Path) -> Sequence[Any]:
    others = [folder / "report/summary.json" for folder in training_folders(path)]
    read = data_folder(path) / "samples", path / "evaluation", path / "metrics.jsonl"
    return session.recipe, *read, *others, __version__  # a newer program writes another page


STAGES = {
    "sample": Stage(sample, lambda path: path / "samples", _sample_inputs),
    "filter": Stage(filter_samples, lambda path: path / "dataset", _filter_inputs),
    "train": Stage(train_model, lambda path: path / "checkpoints", _train_inputs),
    "export": Stage(export, exported, _train_inputs),
    "evaluate": Stage(evaluate_both, lambda path: path / "evaluation/after.json", _evaluate_inputs),
    "report": Stage(report, lambda path: path / "report", _report_inputs),
}


def stages_of(recipe: Recipe) -> list[str]:
    """The names of a recipe's stages, in order."""
    left_out = ("sample", "filter") if recipe.on_policy.method else ()
    return [name for name in STAGES if name not in left_out]


def _inputs(run: Run, session: Session, name: str) -> str:
    """Hash of everything that the result of a stage depends on."""
    return content_hash(*STAGES[name].inputs(session, run.path))


def _is_done(run: Run, session: Session, name: str, inputs: str) -> bool:
    output = STAGES[name].output(run.data if name in DATA_STAGES else run.path)
    done = output.exists() and run.is_done(name, inputs)
    return done and (name != "evaluate" or session.asks_the_same(output))


def _require_earlier(run: Run, session: Session, name: str) -> None:
    order = stages_of(run.recipe)
    for earlier in () if name == "report" else order[: order.index(name)]:
        if not _is_done(run, session, earlier, _inputs(run, session, earlier)):
            folder = run.data if earlier in DATA_STAGES else run.path
            raise InputError(
                f"{shown(run.path)}: {name} needs what {earlier} makes; first: "
                f"thinksafe {earlier} {shown(folder)}"
            )
