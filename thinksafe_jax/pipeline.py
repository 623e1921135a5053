"""The whole flow, top to bottom. Each stage skips what is done and resumes what was cut short.

sample ─► filter ─► train ─► export ─► evaluate ─► report
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.config.compare import flat
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation import evaluate
from thinksafe_jax.guards import Guard, check_one_template, check_unparsed
from thinksafe_jax.hosts import compare_hosts, current
from thinksafe_jax.models import Params
from thinksafe_jax.report import write_report
from thinksafe_jax.runs import Part, Progress, RowStore, Run, atomic_write, content_hash
from thinksafe_jax.runs.compile_cache import enable_compile_cache
from thinksafe_jax.runs.merge import wait_for_rows
from thinksafe_jax.runs.storage import refresh, shown
from thinksafe_jax.session import Session, exported, exported_weights
from thinksafe_jax.synthesis import (
    SAMPLED,
    Ledger,
    Prompt,
    Rounds,
    attempts,
    dataset_facts,
    read_dataset,
    reasons_table,
    source_hashes,
    synthesis_prompts,
    write_dataset,
)
from thinksafe_jax.training import (
    TrainResult,
    build_examples,
    heldout_loss,
    hold_out,
    lora_config,
    track,
    tracking,
    train,
)
from thinksafe_jax.weights import (
    card_of_run,
    export_adapter,
    model_revision,
    read_config_json,
    save_checkpoint,
)

log = logging.getLogger(__name__)


def run_pipeline(
    recipe: Recipe,
    run_dir: Path,
    *,
    stages: Sequence[str] | None = None,
    new_run: bool = False,
    new_verdicts: bool = False,
    skip_bad_rows: bool = False,
) -> dict[str, Any] | None:
    """Runs the stages of a recipe in a run directory.

    Args:
        recipe: what to do; a directory begun with another one is refused.
        run_dir: where everything goes.
        stages: names out of STAGES; all of them by default.
        new_run: delete what an earlier run left there.
        new_verdicts: delete what guard and judge said, and all that was made of it; keep what the
            models wrote.
        skip_bad_rows: leave out unreadable rows instead of stopping at them.

    Returns:
        The content of report/summary.json, where the run has come that far.
    """
    enable_compile_cache()
    compare_hosts(current(), "config", {key: repr(value) for key, value in flat(recipe).items()})
    with Run.open(
        recipe,
        run_dir,
        new_run=new_run,
        new_verdicts=new_verdicts,
        skip_bad_rows=skip_bad_rows,
    ) as run:
        session = Session(recipe, run.path / "models.json")
        session.meet(run.group, training=bool({"train", "export"} & set(stages or STAGES)))
        for name in stages or STAGES:
            if stages and run.group.first:  # all of them together come in order
                _require_earlier(run, name)
            inputs = _inputs(run, name) if run.group.first else ""
            if run.group.decide(f"is {name} done", run.group.first and _is_done(run, name, inputs)):
                log.info("%s: already done", name)
                continue
            run.check_stop()
            run.group.beat(name)
            facts = STAGES[name].work(run, session)
            run.mark_done(name, inputs, **(facts or {}))
            run.group.barrier(f"{name} done", run.check_stop)
            refresh(run.path)
        summary = run.path / "report/summary.json"
        return json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else None


def run_part(recipe: Recipe, run_dir: Path, part: Part, *, skip_bad_rows: bool = False) -> None:
    """Samples a part of the prompts, beside other hosts that sample theirs.

    No host waits for another. The stage itself is done when `sample` is run as a whole afterwards:
    it reads the rows of all parts, samples what is missing, and counts each row once.

    Raises:
        ConfigError: the same part, or the whole, is being worked on by another process.
    """
    enable_compile_cache()
    with Run.open(recipe, run_dir, skip_bad_rows=skip_bad_rows, part=part) as run:
        sample(run, Session(recipe, run.path / "models.json"))


def sample(run: Run, session: Session) -> dict[str, Any]:
    """Steer harmful prompts, let the student answer all of them (paper section 1, steps 1-3).

    With more than one attempt the guard judges between them; the last is left to `filter`.
    """
    cfg = run.recipe.synthesis
    found = synthesis_prompts(run.recipe)
    rounds = _rounds(run, session, [prompt for prompt in found.prompts if prompt.id in run.part])
    if cfg.method not in SAMPLED:
        rounds.fixed()
        _wait_for_all(run, rounds.samples)
        return found.facts
    engine = session.author.engine()
    totals: Counter[str] = Counter()
    for attempt in attempts(cfg):
        if attempt.number > 1 and cfg.method != "rejection":
            rounds.judge(session.guard)
        if rounds.sample(engine, attempt):
            stats = {**asdict(engine.stats), "occupancy": round(engine.stats.occupancy, 4)}
            run.log("sample", attempt=attempt.number, rows=engine.stats.completions, **stats)
            totals.update({k: v for k, v in stats.items() if k not in ("active", "occupancy")})
    _wait_for_all(run, rounds.samples)
    every, totals = run.group.gather("sampled", totals), Counter()
    for own in every:
        totals.update(own)
    share = round(totals["tokens"] / max(1, totals["slot_steps"]), 4)
    return {**totals, "occupancy": share, **found.facts} if totals else found.facts


def _wait_for_all(run: Run, store: RowStore) -> None:
    """Until every process has written its rows of a stage."""
    wait_for_rows(run.group, store, lambda key: key[0] in run.part, run.check_stop)


def filter_samples(run: Run, session: Session) -> dict[str, Any]:
    """Ask the guard about every well-formed answer, keep what it finds safe (steps 4-6).

    Each process asks about its own rows; the first writes the dataset from all of them.
    """
    recipe, guarded = run.recipe, run.recipe.synthesis.method in SAMPLED
    rounds = _rounds(run, session, ())
    if guarded:
        rounds.judge(session.guard)
        _wait_for_all(run, rounds.verdicts)
    if not run.group.first:
        return {}
    guard = session.guard if guarded else None
    if guard:
        _check_verdicts(rounds.verdicts, guard, recipe.guard.max_unparsed)
    facts = dataset_facts(recipe, guard, run.path / "models.json")

    def count_tokens(response: str) -> int:
        return len(rounds.tokenizer.response_ids(response, ended=False))

    counts = write_dataset(run.path, rounds.samples, rounds.verdicts, facts, count_tokens)
    run.log("filter", counts=counts)
    log.info("coverage:\n%s", reasons_table(counts))
    return {"counts": counts, "guard": facts.guard, "weak_guard": facts.weak_guard}


def _check_verdicts(verdicts: RowStore, guard: Guard, max_unparsed: float) -> None:
    """Those of all processes, and of earlier starts: one prompt text, and readable."""
    words, templates = Counter[str](), set[str]()
    for row in verdicts.rows():
        words[row["verdict"]] += 1
        templates.add(row["template"])
    check_one_template(templates, guard.name)
    check_unparsed(words["unparsed"], words.total(), max_unparsed, guard.name)


def _rounds(run: Run, session: Session, prompts: Sequence[Prompt]) -> Rounds:
    """The run's rows and what is known of them."""
    cfg = run.recipe.synthesis
    samples, verdicts = (run.store(name, ("id", "attempt")) for name in ("samples", "verdicts"))
    ledger = Ledger(cfg.reasoning, guarded=cfg.method in SAMPLED)
    own = ((row for row in store.rows() if row["id"] in run.part) for store in (samples, verdicts))
    ledger.read(*own)
    tokenizer, most = session.author.tokenizer, run.recipe.guard.max_unparsed
    return Rounds(cfg, prompts, tokenizer, samples, verdicts, ledger, run.check_stop, most)


def train_model(run: Run, session: Session) -> dict[str, Any]:
    """Fine-tune on the accepted rows (step 7); checkpoints in RUN/checkpoints."""
    return _trained(run, session).summary


def export(run: Run, session: Session) -> None:
    """Write RUN/adapter for PEFT, or RUN/merged where all weights were trained (step 8)."""
    result = _trained(run, session)
    if result.lora is None:
        _save_merged(run, session, result.trainable)
    else:
        base = run.recipe.student.model
        base = str(Path(base).resolve()) if Path(base).is_dir() else base
        export_adapter(
            run.path / "adapter",
            result.trainable,
            result.lora,
            session.cfg,
            base,
            revision=model_revision(session.directory),
            card=card_of_run(run.path, run.recipe, session.directory, "adapter"),
        )


def export_merged(recipe: Recipe, run_dir: Path) -> Path:
    """RUN/merged: the student with the exported adapter folded in, as a Hugging Face checkpoint.

    Raises:
        InputError: nothing is exported yet.
    """
    with Run.open(recipe, run_dir) as run:
        session = Session(recipe, run.path / "models.json")
        if exported(run.path).name != "merged":
            _save_merged(run, session, session.tuned(run.path))
    return run_dir / "merged"


def _save_merged(run: Run, session: Session, params: Params) -> None:
    save_checkpoint(
        run.path / "merged",
        params,
        session.cfg,
        read_config_json(session.directory),
        tokenizer_from=session.directory,
        card=card_of_run(run.path, run.recipe, session.directory, "merged"),
    )


def evaluate_both(run: Run, session: Session) -> None:
    """The student before, then after: harm, over-refusal, reasoning. Never steered."""
    weights = {"before": [session.directory / "config.json"], "after": exported_weights(run.path)}
    for name, tuned in (("before", None), ("after", run.path)):
        evaluate(
            run.recipe.evaluation,
            session.engine(tuned),
            session.tokenizer,
            session.judge,
            run.path / "evaluation" / name,
            reasoning=run.recipe.synthesis.reasoning,
            log=run.log,
            check_stop=run.check_stop,
            model_hash=content_hash(run.recipe.student, *weights[name]),
        )
    if run.group.first:
        folder = exported(run.path)  # its card has a table now
        card = card_of_run(run.path, run.recipe, session.directory, folder.name)
        atomic_write(folder / "README.md", card)


def report(run: Run, session: Session) -> None:
    """RUN/report: what happened, for people and for programs."""
    del session
    if run.group.first:
        write_report(run.path)


def _trained(run: Run, session: Session) -> TrainResult:
    """What training made: of this process, or of the newest checkpoint and what is left to do."""
    if session.trained is None:
        session.trained = _train(run, session)
    return session.trained


def _train(run: Run, session: Session) -> TrainResult:
    cfg = run.recipe.training
    rows = read_dataset(run.path)
    examples, counts = build_examples(session.tokenizer, rows, cfg)
    if not examples:
        raise InputError(f"no row can be trained on: {counts}; see training.max_length")
    examples, held = hold_out(examples, cfg.heldout_rows, run.recipe.seed)
    evaluate = None
    if held:
        lora = None if cfg.full_finetune else lora_config(cfg)
        where = (held, session.placement)
        evaluate = heldout_loss(session.training_params, session.cfg, cfg, lora, *where)
    total = cfg.epochs * -(-len(examples) // cfg.batch_size)
    with (
        tracking(cfg.trackers if run.group.first else [], run.path) as trackers,
        Progress("train", total, unit="steps") as bar,
    ):

        def note(**values: Any) -> None:
            run.log("train", **values)
            track(trackers, values)
            if "loss" in values:
                bar.done = values["step"] - 1
                bar.advance(loss=values["loss"], tokens_per_s=values["tokens_per_second"])

        result = train(
            session.training_params,
            session.cfg,
            cfg,
            examples,
            seed=run.recipe.seed,
            checkpoint_dir=run.path / "checkpoints",
            log=note,
            check_stop=run.check_stop,
            placement=session.placement,
            evaluate=evaluate,
            evaluate_every=cfg.evaluate_every,
        )
        bar.done = total
    result.summary["rows_left_out"] = {k: n for k, n in counts.items() if k != "kept"}
    return result


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
    inputs: Callable[[Recipe, Path], Sequence[Any]]


STAGES = {
    "sample": Stage(
        sample,
        lambda path: path / "samples",
        lambda r, path: (
            r.student,
            r.synthesis,
            r.seed,
            source_hashes(r.synthesis.prompts),
            # between the attempts it is the guard that decides which prompts are asked again
            r.guard if r.synthesis.attempts > 1 else None,
        ),
    ),
    "filter": Stage(
        filter_samples,
        lambda path: path / "dataset",
        lambda r, path: (r.guard, r.synthesis, path / "samples"),
    ),
    "train": Stage(
        train_model,
        lambda path: path / "checkpoints",
        lambda r, path: (r.student, r.training, r.seed, path / "dataset/train.jsonl"),
    ),
    "export": Stage(
        export,
        exported,
        lambda r, path: (r.student, r.training, r.seed, path / "dataset/train.jsonl"),
    ),
    "evaluate": Stage(
        evaluate_both,
        lambda path: path / "evaluation/after.json",
        lambda r, path: (
            r.evaluation,
            source_hashes(r.evaluation.sources),
            r.judging,
            r.student,
            r.seed,
            *exported_weights(path),
        ),
    ),
    "report": Stage(
        report,
        lambda path: path / "report",
        lambda r, path: (r, path / "samples", path / "evaluation", path / "metrics.jsonl"),
    ),
}


def _inputs(run: Run, name: str) -> str:
    """Hash of everything that the result of a stage depends on."""
    return content_hash(*STAGES[name].inputs(run.recipe, run.path))


def _is_done(run: Run, name: str, inputs: str) -> bool:
    return STAGES[name].output(run.path).exists() and run.is_done(name, inputs)


def _require_earlier(run: Run, name: str) -> None:
    for earlier in list(STAGES)[: list(STAGES).index(name)]:
        if name != "report" and not _is_done(run, earlier, _inputs(run, earlier)):
            raise InputError(
                f"{shown(run.path)}: {name} needs what {earlier} makes; first: "
                f"thinksafe {earlier} {shown(run.path)}"
            )
