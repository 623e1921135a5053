"""Evaluation of any model, tuned or not, in a directory of its own that resumes like a run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thinksafe_jax.config import (
    EngineConfig,
    EvaluationConfig,
    GuardConfig,
    ModelSource,
    Recipe,
    SuiteConfig,
    validate,
)
from thinksafe_jax.data import BENCHMARKS, GROUPS, KINDS, benchmark
from thinksafe_jax.errors import ConfigError, quoted
from thinksafe_jax.evaluation import Preset, evaluate, preset
from thinksafe_jax.json_files import read_json_object
from thinksafe_jax.machine import enable_compile_cache
from thinksafe_jax.pipeline.run_models import check_models, record_models
from thinksafe_jax.pipeline.session import Session, exported, exported_weights
from thinksafe_jax.pipeline.subject import judge_of, subject
from thinksafe_jax.runs import Run
from thinksafe_jax.storage import content_hash

STEP = "model"  # RUN/evaluation/model.json


@dataclass(frozen=True)
class ModelEvaluation:
    """What `thinksafe evaluate MODEL` was asked to do.

    Attributes:
        model, adapter, dtype: the student and a PEFT adapter that is folded in.
        suites: as given: NAME, NAME=FILE or KIND:NAME=FILE.
        data: folder in which the suites' published files are looked for.
        judge: kind and model of a guard, as `llama-guard:meta-llama/Llama-Guard-3-8B`, or
            `refusal-match`.
        limit, samples, max_new_tokens: in place of the preset's.
        max_unparsed: share of verdicts that may be unreadable.
        slots: rows decoded together.
    """

    model: str
    suites: Sequence[str]
    adapter: Path | None = None
    data: Path | None = None
    judge: str = "refusal-match"
    preset: str = "paper"
    scopes: Sequence[str] = ("full",)
    dtype: str = "bfloat16"
    limit: int | None = None
    samples: int | None = None
    max_new_tokens: int | None = None
    max_unparsed: float = GuardConfig().max_unparsed
    slots: int = 64


def default_folder(asked: ModelEvaluation) -> Path:
    """Where an evaluation goes if nobody says: of each model and adapter another place.

    Adapters are mostly called `adapter`, so the folder above gives its name, too.
    """
    name = Path(asked.model).name.replace(":", "-")
    if asked.adapter is not None:
        name += "".join(f"-{part}" for part in asked.adapter.absolute().parts[-2:])
    return Path("runs") / f"evaluate-{name}"


def evaluate_on_suites(
    asked: ModelEvaluation,
    out: Path,
    *,
    new_run: bool = False,
    new_verdicts: bool = False,
    skip_bad_rows: bool = False,
) -> dict:
    """Answer, judge and score the suites; write rows, tables and the report below `out`.

    Args:
        new_run, new_verdicts, skip_bad_rows: as `run_pipeline`.

    Returns:
        The content of out/report/summary.json.

    Raises:
        ConfigError: unknown suite, preset, guard or scope.
        InputError, EnvironmentFault: model, adapter or data are missing or damaged.
    """
    from thinksafe_jax.report import write_report

    suites = parse_suites(asked.suites, asked.data)
    enable_compile_cache()
    recipe = _recipe(asked, suites)
    with Run.open(
        recipe, out, new_run=new_run, new_verdicts=new_verdicts, skip_bad_rows=skip_bad_rows
    ) as run:
        session = Session(recipe, run.path / "models.json")
        session.check_hosts_agree(run.group, training=False)
        folders = [session.directory]
        if asked.adapter is not None:
            session.merge(asked.adapter)
            folders.append(asked.adapter)
        evaluate(
            recipe.evaluation,
            subject(session, session.engine(), folders),
            judge_of(session),
            run.path / "evaluation" / STEP,
            log=run.log,
            check_stop=run.check_stop,
            skip_bad_rows=run.skip_bad_rows,
        )
        if run.group.first:
            write_report(run.path)
        run.group.barrier("report", run.check_stop)
    return read_json_object(out / "report/summary.json")


def evaluate_student(recipe: Recipe, out: Path, tuned: Path | None = None) -> None:
    """Evaluates a recipe's student in a directory of its own, unless that is done.

    As `evaluate_on_suites`, for an evaluation that a recipe describes and that has no report: rows
    and rates are below out/evaluation/model.

    Args:
        tuned: a run directory whose adapter, or merged weights, the student has.

    Raises:
        InUse: another process evaluates there.
        InputError: questions or models cannot be read, or are not what `out` was begun with.
    """
    enable_compile_cache()
    with Run.open(recipe, out) as run:
        session = Session(recipe, run.path / "models.json")
        check_models(run)
        weights = [] if tuned is None else exported_weights(tuned)
        asked = recipe.evaluation, session.question_hashes, recipe.judging
        inputs = content_hash(*asked, recipe.student, recipe.seed, *weights)
        step = run.path / "evaluation" / STEP
        if run.is_done("evaluate", inputs) and session.asks_the_same(step.with_suffix(".json")):
            return
        evaluate(
            recipe.evaluation,
            subject(
                session,
                session.engine(tuned),
                [session.directory, *([] if tuned is None else [exported(tuned)])],
            ),
            judge_of(session),
            run.path / "evaluation" / STEP,
            log=run.log,
            check_stop=run.check_stop,
        )
        record_models(run)
        run.mark_done("evaluate", inputs)


def _recipe(asked: ModelEvaluation, suites: Sequence[SuiteConfig]) -> Recipe:
    """The checked recipe that the evaluation runs by."""
    from thinksafe_jax.models import load_config
    from thinksafe_jax.tokenizer import ChatTokenizer
    from thinksafe_jax.weights import resolve_model

    folder = resolve_model(asked.model)
    settings = preset(asked.preset, opens_think=ChatTokenizer(folder).opens_think)
    context = load_config(folder).max_position_embeddings
    _require_room(asked, settings, context)
    recipe = recipe_of(asked, suites, settings, context)
    validate(recipe)
    return recipe


def _require_room(asked: ModelEvaluation, settings: Preset, context: int) -> None:
    """Refuses responses that leave no room for a prompt, and names the option of the command."""
    longest = max(settings.safety.max_new_tokens, settings.reasoning.max_new_tokens)
    source = f"--preset {asked.preset}"
    if asked.max_new_tokens is not None:
        longest, source = asked.max_new_tokens, f"--max-new-tokens {asked.max_new_tokens}"
    if longest >= context:
        raise ConfigError(
            f"{source}: a response may have {longest:,} tokens, but the context of {asked.model} "
            f"is {context:,}, the prompt included; give --max-new-tokens, {context // 2:,} or so"
        )


def recipe_of(
    asked: ModelEvaluation, suites: Sequence[SuiteConfig], settings: Preset, context: int
) -> Recipe:
    """The recipe that evaluation runs by; it becomes the directory's config.yaml."""
    most = asked.max_new_tokens
    safety, reasoning = settings.safety, settings.reasoning
    if most is not None:
        safety, reasoning = (replace(s, max_new_tokens=most) for s in (safety, reasoning))
    limit = asked.limit if asked.limit is not None else settings.limit
    kind, _, model = asked.judge.partition(":")
    longest = max(safety.max_new_tokens, reasoning.max_new_tokens)
    engine = EngineConfig(slots=asked.slots, max_length=min(context, 4096 + longest))
    name = Path(asked.model).name + (f" + {asked.adapter.name}" if asked.adapter else "")
    return Recipe(
        name=name,
        student=ModelSource(asked.model, dtype=asked.dtype),
        guard=GuardConfig(kind=kind, model=model, max_unparsed=asked.max_unparsed),
        engine=engine,
        evaluation=EvaluationConfig(
            suites=[replace(suite, limit=limit) for suite in suites],
            sampling=safety,
            reasoning_sampling=reasoning,
            samples=asked.samples or settings.samples,
            scopes=list(asked.scopes),
        ),
    )


def parse_suites(names: Sequence[str], data: Path | None) -> list[SuiteConfig]:
    """NAME, NAME=FILE and KIND:NAME=FILE as suites; groups are taken apart, repeats dropped.

    A file that is named for a suite is its file, whether a group names the suite as well or not.

    Args:
        data: where a benchmark's published file is used, if it is there.

    Raises:
        ConfigError: an unknown suite or kind, or none at all; no folder of that name; two files
            for one suite, or one for a group whose suites have a file each.
    """
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data {data}: no such folder")
    suites: dict[str, SuiteConfig] = {}
    files: dict[str, str] = {}  # that were named
    for text in names:
        full, _, path = text.partition("=")
        kind, colon, name = full.partition(":")
        kind, name = (kind.replace("-", "_"), name) if colon else ("", full)
        if kind and kind not in KINDS:
            raise ConfigError(
                f"--suite {text}: no kind {quoted(kind)}; choose from {', '.join(KINDS)}"
            )
        members = GROUPS.get(name, (name,))
        if path and len({BENCHMARKS[m].files for m in members if m in BENCHMARKS}) > 1:
            raise ConfigError(
                f"--suite {text}: {name} is {', '.join(members)}, and each has a file of its own; "
                "name them one by one, or the folder that has them: --data DIR"
            )
        for member in members:
            benchmark(member, kind)  # refuses unknown names
            if path and files.setdefault(member, path) != path:
                raise ConfigError(
                    f"--suite {text}: {member} has the file {files[member]} already; give another "
                    f"file a name of its own, as {kind or BENCHMARKS[member].kind}:NAME={path}"
                )
            file = files.get(member) or _published_file(member, data)
            suites[member] = SuiteConfig(member, kind=kind, path=file)
    if not suites:
        raise ConfigError(f"no suite given; --suite takes {', '.join([*GROUPS, *BENCHMARKS])}")
    return list(suites.values())


def _published_file(name: str, data: Path | None) -> str:
    files = BENCHMARKS[name].files if name in BENCHMARKS and data is not None else ()
    return next((str(data / f) for f in files if data is not None and (data / f).is_file()), "")
