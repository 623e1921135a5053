"""A run's student on suites that its recipe does not name, before and after training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinksafe_jax.config import (
    EvaluationConfig,
    GuardConfig,
    Recipe,
    SuiteConfig,
    SynthesisConfig,
    validate,
)
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import preset
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.machine import enable_compile_cache
from thinksafe_jax.pipeline.before_after import measure_before_and_after
from thinksafe_jax.pipeline.evaluate_model import parse_suites
from thinksafe_jax.pipeline.run_models import check_models, record_models
from thinksafe_jax.pipeline.session import Session, exported
from thinksafe_jax.runs import Run, begun_recipe, data_folder
from thinksafe_jax.storage import atomic_write, shown

_PROMPT = 4096  # tokens of a question at most, beside the longest response


@dataclass(frozen=True)
class RunEvaluation:
    """What `thinksafe evaluate RUN --suite` was asked to do; None is as in the run's recipe.

    Attributes:
        run: the directory of a run that has exported what it trained.
        suites, data, judge, limit: as in `ModelEvaluation`; the recipe's judge where none is named.
        preset: sampling and samples of a preset instead of the recipe's.
        scopes, samples, max_new_tokens, max_unparsed, slots, dtype: in place of the recipe's.
    """

    run: Path
    suites: Sequence[str]
    data: Path | None = None
    judge: str | None = None
    preset: str | None = None
    scopes: Sequence[str] | None = None
    dtype: str | None = None
    limit: int | None = None
    samples: int | None = None
    max_new_tokens: int | None = None
    max_unparsed: float | None = None
    slots: int | None = None


def folder_of_suites(run_dir: Path) -> Path:
    """Where `thinksafe evaluate RUN --suite` writes if nobody says: runs/evaluate-<run>."""
    run, path = data_folder(run_dir), run_dir.absolute()
    name = path.name if run == run_dir else f"{run.absolute().name}-{path.name}"
    return Path("runs") / f"evaluate-{name}"


def evaluate_run_on_suites(
    asked: RunEvaluation,
    out: Path,
    *,
    new_run: bool = False,
    new_verdicts: bool = False,
    skip_bad_rows: bool = False,
) -> dict[str, Any]:
    """Asks the run's student and what was trained; writes rows, tables and the report below `out`.

    Args:
        new_run, new_verdicts, skip_bad_rows: as `run_pipeline`.

    Returns:
        The content of out/report/summary.json.

    Raises:
        ConfigError: unknown suite, preset, guard or scope.
        InputError: nothing is exported there yet, or models or data cannot be read.
    """
    from thinksafe_jax.report import write_report

    suites = parse_suites(asked.suites, asked.data)
    if not exported(asked.run).exists():
        raise InputError(
            f"{shown(asked.run)}: nothing is exported there yet (no adapter/, no merged/); first: "
            f"thinksafe export {shown(asked.run)}"
        )
    enable_compile_cache()
    revisions = data_folder(asked.run) / "models.json"
    recipe = _recipe(asked, suites, Session(begun_recipe(asked.run), revisions))
    with Run.open(
        recipe, out, new_run=new_run, new_verdicts=new_verdicts, skip_bad_rows=skip_bad_rows
    ) as run:
        session = Session(recipe, run.path / "models.json")
        if run.group.first and revisions.exists() and not (run.path / "models.json").exists():
            atomic_write(run.path / "models.json", revisions.read_bytes())  # the same commits
        session.check_hosts_agree(run.group, training=False)
        check_models(run)
        measure_before_and_after(run, session, asked.run)
        record_models(run)
        if run.group.first:
            write_report(run.path)
        run.group.barrier("report", run.check_stop)
    return read_json_object(out / "report/summary.json")


def _recipe(asked: RunEvaluation, suites: Sequence[SuiteConfig], session: Session) -> Recipe:
    """The checked recipe: student, sampler and judge of the run, the suites in place of its own."""
    begun, context = session.recipe, session.cfg.max_position_embeddings
    evaluation = _evaluation(asked, suites, session)
    samplings = evaluation.sampling, evaluation.reasoning_sampling or evaluation.sampling
    room = _PROMPT + max(sampling.max_new_tokens for sampling in samplings)
    engine = begun.engine
    if engine.max_length is not None and engine.max_length < room:
        engine = replace(engine, max_length=min(context, room))
    if engine.pool_tokens is not None and engine.pool_tokens < room:
        engine = replace(engine, pool_tokens=room)
    if asked.slots is not None:
        engine = replace(engine, slots=asked.slots)
    student = begun.student
    if asked.dtype is not None:
        student = replace(student, dtype=asked.dtype)
    recipe = Recipe(
        name=begun.name,
        trial=begun.trial,
        seed=begun.seed,
        mesh=begun.mesh,
        student=student,
        guard=_judge(asked, begun),
        engine=engine,
        synthesis=SynthesisConfig(reasoning=begun.synthesis.reasoning),
        evaluation=evaluation,
    )
    validate(recipe)
    return recipe


def _judge(asked: RunEvaluation, begun: Recipe) -> GuardConfig:
    judge = begun.judging
    if asked.judge is not None:
        kind, _, model = asked.judge.partition(":")
        judge = GuardConfig(kind=kind, model=model)
    most = asked.max_unparsed
    return judge if most is None else replace(judge, max_unparsed=most)


def _evaluation(
    asked: RunEvaluation, suites: Sequence[SuiteConfig], session: Session
) -> EvaluationConfig:
    cfg = replace(session.recipe.evaluation, harmful=[], over_refusal=[], reasoning=[])
    limit = asked.limit
    if asked.preset is not None:
        settings = preset(asked.preset, opens_think=session.tokenizer.opens_think)
        safety, reasoning = settings.safety, settings.reasoning
        cfg = replace(cfg, sampling=safety, reasoning_sampling=reasoning, samples=settings.samples)
        limit = settings.limit if limit is None else limit
    if (most := asked.max_new_tokens) is not None:
        safety, reasoning = cfg.sampling, cfg.reasoning_sampling
        cfg = replace(cfg, sampling=replace(safety, max_new_tokens=most))
        if reasoning is not None:
            cfg = replace(cfg, reasoning_sampling=replace(reasoning, max_new_tokens=most))
    return replace(
        cfg,
        judge="guard",  # the exact judge knows the mini world only
        suites=[replace(suite, limit=limit) for suite in suites],
        limit=cfg.limit if limit is None else None,
        samples=asked.samples or cfg.samples,
        scopes=list(asked.scopes or cfg.scopes),
    )
