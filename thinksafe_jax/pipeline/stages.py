"""What each stage does in a run directory: sample, filter, train, export, evaluate, report."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thinksafe_jax.config import SAMPLED
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import InputError
from thinksafe_jax.guards import check_one_template, check_unparsed
from thinksafe_jax.models import Params
from thinksafe_jax.pipeline.before_after import measure_before_and_after
from thinksafe_jax.pipeline.draw_version import check_draw_version
from thinksafe_jax.pipeline.heldout_answers import ask_held_out
from thinksafe_jax.pipeline.rollout_and_train import rollout_and_train
from thinksafe_jax.pipeline.session import Session, exported
from thinksafe_jax.pipeline.take_steps import take_steps
from thinksafe_jax.report import card_of_dataset, card_of_run, write_report
from thinksafe_jax.runs import RowStore, Run, copy_untouched, wait_for_rows
from thinksafe_jax.storage import atomic_write, refresh
from thinksafe_jax.synthesis import (
    SAMPLE_FIELDS,
    VERDICT_FIELDS,
    EditedPrompts,
    Ledger,
    Rounds,
    count_refusals,
    dataset_facts,
    read_dataset,
    reasons_table,
    refusal_warning,
    require_labels,
    write_dataset,
    write_refusals,
)
from thinksafe_jax.training import (
    TrainingSetup,
    TrainResult,
    build_examples,
    heldout_loss,
    hold_out,
)
from thinksafe_jax.weights import export_adapter, model_revision, read_config_json, save_checkpoint

log = logging.getLogger(__name__)


def sample(run: Run, session: Session) -> dict[str, Any]:
    """Steer harmful prompts, let the student answer all of them (paper section 1, steps 1-3).

    With more than one attempt the guard judges all but the last, which is left to `filter`. Several
    processes take the prompts from one queue; a part that samples alone has those of its hash.
    """
    cfg = run.recipe.synthesis
    session.check_sampling()  # the student is asked last, be the answers a teacher's or given
    selection = session.selection
    require_labels(run.recipe, selection.prompts)
    edited = EditedPrompts(selection.prompts, cfg.method)
    mine = selection.prompts
    if run.group.count == 1 or cfg.method not in SAMPLED:
        mine = [prompt for prompt in mine if prompt.id in run.part]
    rounds = _rounds(run, session, mine, edited.look_at)
    edited.refuse()
    if cfg.method not in SAMPLED:
        rounds.fixed()
        _wait_for_all(run, rounds.samples)
        return selection.facts
    versions = check_draw_version(run)
    retries = cfg.attempts > 1 and cfg.method != "rejection"
    guard = session.guard if retries else None  # before the sampler: its pool takes what is left
    engine = session.generator.engine()
    totals: Counter[str] = Counter()
    if rounds.sample(engine, guard, run.recipe.guard.max_unparsed):
        stats = {**asdict(engine.stats), "occupancy": round(engine.stats.occupancy, 4)}
        stats["seconds"] -= rounds.judging_seconds
        run.log("sample", attempt=cfg.attempts, rows=engine.stats.completions, **stats)
        totals.update({k: v for k, v in stats.items() if k not in ("active", "occupancy")})
    if rounds.judged:
        run.log("judge", rows=rounds.judged, seconds=round(rounds.judging_seconds, 3))
    _wait_for_all(run, rounds.samples)
    _wait_for_all(run, rounds.verdicts)  # of rows that others wrote, too: none is judged twice
    return {**_over_processes(run, totals), **selection.facts, "draw_versions": versions}


def _over_processes(run: Run, totals: Counter[str]) -> dict[str, Any]:
    """The engines' figures of all processes, and how many of their slots were at work."""
    sums: Counter[str] = Counter()
    for of_process in run.group.gather("sampled", totals):
        sums.update(of_process)
    if not sums:
        return {}
    made = sums["tokens"] - sums["accepted"]
    return {**sums, "occupancy": round(made / max(1, sums["slot_steps"]), 4)}


def _wait_for_all(run: Run, store: RowStore) -> None:
    """Until every process has written its rows of a stage."""
    wait_for_rows(run.group, store, run.check_stop)


def filter_samples(run: Run, session: Session) -> dict[str, Any]:
    """Ask the guard about every well-formed answer, keep what it finds safe (steps 4-6).

    Each process asks about its own rows; the first writes the dataset from all of them.
    """
    recipe, guarded = run.recipe, run.recipe.synthesis.method in SAMPLED
    rounds = _rounds(run, session, ())
    ledger = rounds.ledger
    if guarded:
        _judge(run, session, rounds)
        _wait_for_all(run, rounds.verdicts)
    if not run.group.first:
        return {}
    guard = session.guard if guarded else None
    if guard:
        if run.group.count > 1:
            ledger.read_verdicts(rounds.verdicts)  # what the other processes asked
        check_one_template(ledger.templates, guard.name)
        unparsed, verdicts = ledger.words["unparsed"], ledger.words.total()
        check_unparsed(unparsed, verdicts, recipe.guard.max_unparsed, guard.name)
    sources = run.facts("sample").get("sources_sha256")  # as they were when they were asked
    facts = dataset_facts(recipe, guard, run.path / "models.json", sources)

    def count_tokens(response: str) -> int:
        return len(rounds.tokenizer.response_ids(response, ended=False))

    refusals = count_refusals(ledger, facts.method, recipe.seed, session.prompt_sources())
    write_refusals(run.path, refusals)
    counts, lengths = write_dataset(run.path, rounds.samples, ledger, facts, count_tokens)
    card = card_of_dataset(facts, counts, lengths, refusals)
    atomic_write(run.path / "dataset/README.md", card)
    run.log("filter", counts=counts)
    log.info("coverage:\n%s", reasons_table(counts))
    if warning := refusal_warning(refusals):
        log.warning(warning)
    return {"counts": counts, "guard": facts.guard, "weak_guard": facts.weak_guard}


def _judge(run: Run, session: Session, rounds: Rounds) -> None:
    """Asks the guard about the rows that it has not judged, and logs what that took."""
    guard, began = session.guard, time.monotonic()
    if rows := rounds.judge(guard, run.recipe.guard.max_unparsed):
        run.log("judge", rows=rows, seconds=round(time.monotonic() - began, 3))


def _rounds(
    run: Run,
    session: Session,
    prompts: Sequence[Prompt],
    look_at: Callable[[Mapping[str, Any]], None] | None = None,
) -> Rounds:
    """The run's rows and what is known of them: the one reading of the stores in a stage.

    Args:
        look_at: shown every row of samples/ as it passes.
    """
    cfg = run.recipe.synthesis
    samples = run.store("samples", ("id", "attempt"), SAMPLE_FIELDS)
    verdicts = run.store("verdicts", ("id", "attempt"), VERDICT_FIELDS)
    ledger = Ledger(cfg.reasoning, cfg.method in SAMPLED, cfg.benign_refusals)
    ledger.read(samples, verdicts, look_at)
    tokenizer = session.generator.tokenizer
    who = run.part, run.group
    return Rounds(cfg, prompts, tokenizer, samples, verdicts, ledger, run.check_stop, *who)


def train_model(run: Run, session: Session) -> dict[str, Any]:
    """Fine-tune on the accepted rows (step 7); checkpoints in RUN/checkpoints."""
    session.trained = _train(run, session)
    return session.trained.summary


def export(run: Run, session: Session) -> None:
    """Write RUN/adapter for PEFT, or RUN/merged where all weights were trained (step 8).

    With `training.heldout_rows` the prompts that training never saw are asked then, see
    `heldout_answers`.
    """
    _export(run, session)
    if not run.recipe.on_policy.method:
        ask_held_out(run, session)


def _export(run: Run, session: Session) -> None:
    # In a later process than training's the last checkpoint is restored: no step is left to do.
    result = session.trained or _train(run, session)
    if result.lora is None:
        save_merged(run, session, result.trainable)
        return
    base = run.recipe.student.model
    export_adapter(
        run.path / "adapter",
        result.trainable,
        result.lora,
        session.cfg,
        str(Path(base).resolve()) if Path(base).is_dir() else base,
        revision=model_revision(session.directory),
        card=card_of_run(run.path, run.recipe, session.directory, "adapter"),
    )


def save_merged(run: Run, session: Session, params: Params) -> None:
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
    if run.group.first:
        copy_untouched(run.path)
    run.group.barrier("evaluation begins")
    refresh(run.path)
    measure_before_and_after(run, session, run.path)
    if run.group.first:
        folder = exported(run.path)  # its card has a table now
        card = card_of_run(run.path, run.recipe, session.directory, folder.name)
        atomic_write(folder / "README.md", card)


def report(run: Run, _: Session) -> None:
    """RUN/report: what happened, for people and for programs; of a training, of its run as well."""
    if run.group.first:
        for folder in dict.fromkeys((run.path, run.data)):
            write_report(folder)


def _train(run: Run, session: Session) -> TrainResult:
    """Trains from the newest checkpoint on, or from the beginning."""
    if run.recipe.on_policy.method:
        return rollout_and_train(run, session)
    cfg = run.recipe.training
    rows = read_dataset(run.data)
    examples, counts = build_examples(session.tokenizer, rows, cfg)
    if not examples:
        raise InputError(f"no row can be trained on: {counts}; see training.max_length")
    examples, held_out = hold_out(examples, cfg.heldout_rows, run.recipe.seed)
    session.release_guards()
    params = session.weights.for_training()
    setup = TrainingSetup(session.cfg, cfg, session.training_mesh)
    evaluate_loss = heldout_loss(params, setup, held_out) if held_out else None
    batches = setup.batches(examples, run.recipe.seed)
    result = take_steps(run, params, setup, batches, evaluate=evaluate_loss)
    result.summary["rows_left_out"] = {k: n for k, n in counts.items() if k != "kept"}
    return result
