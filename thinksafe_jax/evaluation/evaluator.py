"""Evaluation of one model: one queue over all prompts, then the judge, then the numbers.

    questions ─► responses/*.jsonl ─► verdicts/*.jsonl ─► rows.jsonl ─► <name>.json
                 as they finish       as they are judged   joined        rates with intervals

Responses and verdicts are kept row by row, so an evaluation that was killed goes on where it was;
another judge is asked about the responses that are there.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from thinksafe_jax.config import EvaluationConfig
from thinksafe_jax.data import REASONING, Question, Questions, fingerprint, load_questions
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation.answers.equality import Equality, require_math_verify
from thinksafe_jax.evaluation.asking import ROW_KEY, Asked, Key, Subject, answer, askable
from thinksafe_jax.evaluation.journal import CheckStop, Journal, Log
from thinksafe_jax.evaluation.judging import VERDICT_KEY, Judge, judge
from thinksafe_jax.evaluation.row_folders import take_up
from thinksafe_jax.evaluation.scoring import score_rows, summarise
from thinksafe_jax.hosts import Group, current
from thinksafe_jax.runs import Part, RowStore, wait_for_rows
from thinksafe_jax.storage import atomic_write, content_hash, refresh
from thinksafe_jax.version import __version__


def evaluate(
    cfg: EvaluationConfig,
    subject: Subject,
    by: Judge,
    out_dir: Path,
    *,
    log: Log,
    check_stop: CheckStop,
    skip_bad_rows: bool = False,
) -> dict:
    """Evaluate one model and write `<out_dir>.json` and the rows in `out_dir`.

    Of several processes (`hosts.join`) each answers and judges its part, the first scores all.

    Args:
        cfg: suites, judge, reasoning prompt and sampling.
        subject: the model.
        by: who judges the safety suites.
        out_dir: RUN/evaluation/<name>; the names are before, after and model.
        log, check_stop: as in `Journal`.
        skip_bad_rows: ask again what cannot be read, instead of stopping at it.

    Returns:
        What the JSON file holds: three rates with Wilson intervals, bounds, counts, settings; of
        several processes, nothing but in the first.

    Raises:
        InputError: bad questions, none that can be asked, or a guard that cannot be read.
    """
    group, journal = current(), Journal(out_dir.name, log, check_stop)
    questions = _questions(cfg, out_dir, group)
    asked, skipped = askable(questions.items, cfg, subject)
    answering, judging = _answering(cfg, questions, subject), _judging(cfg, by)
    if group.first:
        answers = content_hash(answering, subject.fingerprint)
        # a guard without a fingerprint keeps the identity that verdicts had before there was one
        verdict = content_hash(answers, judging, *filter(None, [by.fingerprint]))
        take_up(out_dir, {"responses": answers, "verdicts": verdict})
    group.barrier(f"{out_dir.name} begins")
    refresh(out_dir)
    who = cfg, subject, by, out_dir, journal
    responses, verdicts = _ask_and_judge(asked, *who, skip_bad_rows=skip_bad_rows)
    if not group.first:
        return {}
    rows = {tuple(row[name] for name in ROW_KEY): row for row in responses.read()}
    scored = _scored([rows[key] for key in asked], verdicts, cfg)
    result = summarise(scored) | {"skipped": skipped, "settings": answering | judging}
    _write(out_dir, scored, result)
    return result


def _questions(cfg: EvaluationConfig, out_dir: Path, group: Group) -> Questions:
    """All that is asked; the first host reads and pins the datasets, then the others."""
    questions = group.in_turn(
        "questions",
        lambda: load_questions(cfg, out_dir.with_name("datasets.json")),
        lambda: refresh(out_dir.parent),
    )
    require_scorers(cfg, questions)
    return questions


def require_scorers(cfg: EvaluationConfig, questions: Questions) -> None:
    """Looks for what will compare and judge the answers, before any is given.

    Raises:
        MissingRequirement: Math-Verify is needed and not installed.
        InputError: the mini world's judge is to judge answers to questions that are not of it.
    """
    if cfg.judge == "mini":
        for question in questions.items:
            if question.kind != REASONING and question.prompt.strip():
                _require_mini(question)
    elif any(q.kind == REASONING for q in questions.items):
        require_math_verify()


def _require_mini(question: Question) -> None:
    from thinksafe_jax import mini

    try:
        mini.judge(question.prompt, "")
    except InputError as error:
        raise InputError(
            f"{question.suite}: {error}; set evaluation.judge to guard, or leave {question.suite} "
            "to `thinksafe evaluate RUN --suite`"
        ) from None


def _ask_and_judge(
    asked: dict[Key, Asked],
    cfg: EvaluationConfig,
    subject: Subject,
    by: Judge,
    out_dir: Path,
    journal: Journal,
    *,
    skip_bad_rows: bool,
) -> tuple[RowStore, RowStore]:
    """Responses and verdicts of all hosts; each judges what it answered."""
    group = current()
    part = Part(group.index, group.count)
    responses, verdicts = (
        RowStore(out_dir / name, key, skip_bad_rows=skip_bad_rows, writer=part.name)
        for name, key in (("responses", ROW_KEY), ("verdicts", VERDICT_KEY))
    )
    before = out_dir.with_name("before") / "responses"
    guesses = RowStore(before, key=ROW_KEY, skip_bad_rows=True)
    earlier = guesses if out_dir.name == "after" else None
    answer(asked, subject, responses, journal, group, earlier)
    wait_for_rows(group, responses, journal.check_stop)
    mine = {
        tuple(row[name] for name in ROW_KEY): row
        for (shard, _), row in responses.located()
        if part.follows_up(f"{row['suite']}/{row['id']}", shard)
    }
    judge([mine[key] for key in asked if key in mine], cfg, by, verdicts, journal)
    wait_for_rows(group, verdicts, journal.check_stop)
    return responses, verdicts


def _scored(rows: Sequence[dict], verdicts: RowStore, cfg: EvaluationConfig) -> list[dict]:
    """The rows with their scores; each has its verdicts in the order of `cfg.scopes`."""
    judged: dict[tuple, dict[str, dict]] = {}
    for row in verdicts.read():
        judged.setdefault(tuple(row[name] for name in ROW_KEY), {})[row["asked_scope"]] = row
    in_order = {
        key: {scope: by_scope[scope] for scope in cfg.scopes if scope in by_scope}
        for key, by_scope in judged.items()
    }
    with Equality() as pool:
        return score_rows(rows, in_order, cfg.judge, pool)


def _write(out_dir: Path, scored: Sequence[dict], result: dict) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in scored]
    atomic_write(out_dir / "rows.jsonl", "".join(lines))
    atomic_write(out_dir.with_name(f"{out_dir.name}.json"), json.dumps(result, indent=2) + "\n")


def _answering(cfg: EvaluationConfig, questions: Questions, subject: Subject) -> dict:
    """What was asked, and how: equal in evaluations that can be compared."""
    items = questions.items
    # without it, settings and identity are those of versions that had no kv_dtype
    rounded = {} if subject.kv_dtype == "model" else {"kv_dtype": subject.kv_dtype}
    counts = Counter(question.suite for question in items)
    return {
        **rounded,
        "sampling": asdict(cfg.sampling),
        "reasoning_sampling": asdict(cfg.reasoning_sampling or cfg.sampling),
        "samples": cfg.samples,
        "reasoning": subject.reasoning,
        "reasoning_prompt": cfg.reasoning_prompt,
        "steering": "none",
        "prompts": dict(counts),
        "prompts_sha256": fingerprint(items),
        "sources": {name: asdict(source) for name, source in questions.sources.items()},
        "version": __version__,
    }


def _judging(cfg: EvaluationConfig, by: Judge) -> dict:
    """Who judged what of the answers: equal in evaluations that can be compared."""
    return {
        "scopes": list(cfg.scopes),
        "judge": cfg.judge,
        "guard": {"name": by.guard.name, "weak": by.guard.weak},
    }
