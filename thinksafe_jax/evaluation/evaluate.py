"""Evaluation of one model: one queue over all prompts, then the judge, then the numbers.

    questions ─► responses/*.jsonl ─► verdicts/*.jsonl ─► rows.jsonl ─► <name>.json
                 as they finish       as they are judged   joined        rates with intervals

Responses and verdicts are kept row by row, so an evaluation that was killed goes on where it was.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import thinksafe_jax
from thinksafe_jax.config import EvaluationConfig
from thinksafe_jax.evaluation.scoring import score_row, summarise
from thinksafe_jax.evaluation.suites import (
    HARMFUL,
    OVER_REFUSAL,
    SUITES,
    Question,
    fingerprint,
    load_questions,
)
from thinksafe_jax.guards import Exchange, Guard
from thinksafe_jax.runs import (
    Progress,
    RowBuffer,
    RowStore,
    atomic_write,
    content_hash,
    prepare_directory,
)
from thinksafe_jax.sampling import Request

if TYPE_CHECKING:
    from thinksafe_jax.sampling import Engine
    from thinksafe_jax.tokenizer import ChatTokenizer

Log = Callable[..., None]  # Run.log: log(stage, **values)
CheckStop = Callable[[], None]  # Run.check_stop
Askable = dict[tuple[str, str], tuple[Question, Request]]

_log = logging.getLogger(__name__)
_LABELS = {HARMFUL: "harmful", OVER_REFUSAL: "benign"}


def evaluate(
    cfg: EvaluationConfig,
    engine: "Engine",
    tokenizer: "ChatTokenizer",
    guard: Guard,
    out_dir: Path,
    *,
    reasoning: str,
    log: Log,
    check_stop: CheckStop,
    model_hash: str = "",
) -> dict:
    """Evaluate one model and write `<out_dir>.json` and the rows in `out_dir`.

    Args:
        cfg: suites, judge, reasoning prompt and sampling.
        engine: the sampler, holding the model that is evaluated.
        guard: judges the harmful suite; where `cfg.judge` is "mini" its agreement with the exact
            judge is measured instead.
        out_dir: RUN/evaluation/before or RUN/evaluation/after.
        reasoning: "think" or "none", as in `SynthesisConfig.reasoning`; kept with the settings.
        check_stop: raises `Terminated` when the run was asked to stop; what is done is kept.
        model_hash: names the weights in `engine`; rows of other weights are not taken up.

    Returns:
        What the JSON file holds: three rates with Wilson intervals, bounds, counts, settings.
    """
    questions = load_questions(cfg)
    askable, skipped = _askable(questions, cfg, engine, tokenizer)
    settings = _settings(cfg, guard, questions, reasoning)
    _discard_rows_of_others(out_dir, content_hash(settings, model_hash))
    responses = RowStore(out_dir / "responses", key=("suite", "id"))
    verdicts = RowStore(out_dir / "verdicts", key=("suite", "id"))
    keeping = partial(_keeping, name=out_dir.name, log=log, check_stop=check_stop)
    _answer(askable, engine, tokenizer, responses, keeping)
    by_key = {(row["suite"], row["id"]): row for row in responses.read()}
    rows = [by_key[key] for key in askable]
    _judge(rows, cfg, guard, verdicts, keeping)

    judged = {(row["suite"], row["id"]): row for row in verdicts.read()}
    scored = [score_row(row, judged.get((row["suite"], row["id"])), cfg.judge) for row in rows]
    result = summarise(scored) | {"skipped": skipped, "settings": settings}
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in scored]
    atomic_write(out_dir / "rows.jsonl", "".join(lines))
    atomic_write(out_dir.with_name(f"{out_dir.name}.json"), json.dumps(result, indent=2) + "\n")
    return result


def _discard_rows_of_others(out_dir: Path, inputs: str) -> None:
    """Rows are taken up only where the same model answered the same questions in the same way."""
    file = out_dir / "inputs.sha256"
    if file.exists() and file.read_text(encoding="utf-8").strip() == inputs:
        return
    for folder in (out_dir / "responses", out_dir / "verdicts"):
        if folder.exists():
            _log.warning("%s: of another model or other settings, evaluated anew", folder)
            shutil.rmtree(folder)
    prepare_directory(out_dir)
    atomic_write(file, f"{inputs}\n")


def _askable(
    questions: list[Question], cfg: EvaluationConfig, engine: "Engine", tokenizer: "ChatTokenizer"
) -> tuple[Askable, dict]:
    """What can be asked, by question key, and what cannot, counted by suite and reason."""
    askable: Askable = {}
    skipped: dict[str, dict[str, int]] = {suite: {} for suite in SUITES}
    for question in questions:
        ids = tokenizer.prompt_ids(question.text)
        request = Request(f"{question.suite}/{question.id}", ids, cfg.sampling)
        empty = not question.prompt.strip()
        why = "empty_prompt" if empty else engine.refuses(request)
        if why is None:
            askable[question.key] = (question, request)
            continue
        reason = "empty_prompt" if empty else "too_long"
        skipped[question.suite][reason] = skipped[question.suite].get(reason, 0) + 1
        _log.warning("%s is not evaluated: %s", request.id, why)
    return askable, skipped


def _answer(
    askable: Askable,
    engine: "Engine",
    tokenizer: "ChatTokenizer",
    store: RowStore,
    keeping: Callable,
) -> None:
    """Sample what has no response yet: all suites in one queue, kept as they finish."""
    done = store.keys()
    waiting = {r.id: (q, r) for key, (q, r) in askable.items() if key not in done}
    if not waiting:
        return
    with keeping(store, "sample", len(waiting)) as keep:
        for completion in engine.generate(request for _, request in waiting.values()):
            question, _ = waiting[completion.id]
            row = {"suite": question.suite, "id": question.id, "prompt": question.prompt}
            if question.answer is not None:
                row["answer"] = question.answer
            row |= {
                "response": tokenizer.decode(completion.token_ids),
                "finish_reason": completion.finish_reason,
                "tokens": len(completion.token_ids),
                "source": question.source,
            }
            keep(row)


def _judge(
    rows: list[dict], cfg: EvaluationConfig, guard: Guard, store: RowStore, keeping: Callable
) -> None:
    """Ask the guard about what it has not judged yet.

    It sees the original prompt and the whole response. Refusals are read from the text; only where
    the guard itself is measured (judge "mini") does it see the over-refusal suite as well.
    """
    suites = (HARMFUL, OVER_REFUSAL) if cfg.judge == "mini" else (HARMFUL,)
    done = store.keys()
    waiting = {
        f"{row['suite']}/{row['id']}": row
        for row in rows
        if row["suite"] in suites and (row["suite"], row["id"]) not in done
    }
    if not waiting:
        return
    exchanges = (
        Exchange(key, row["prompt"], row["response"], _LABELS[row["suite"]])
        for key, row in waiting.items()
    )
    with keeping(store, "judge", len(waiting)) as keep:
        for verdict in guard.judge(exchanges):
            row = waiting[verdict.id]
            keep({**verdict.row(), "suite": row["suite"], "id": row["id"]})


def _settings(
    cfg: EvaluationConfig, guard: Guard, questions: list[Question], reasoning: str
) -> dict:
    """All that must be equal for two evaluations to be comparable."""
    return {
        "sampling": asdict(cfg.sampling),
        "judge": cfg.judge,
        "guard": {"name": guard.name, "weak": guard.weak},
        "reasoning": reasoning,
        "reasoning_prompt": cfg.reasoning_prompt,
        "steering": "none",
        "prompts": {s: sum(q.suite == s for q in questions) for s in SUITES},
        "prompts_sha256": fingerprint(questions),
        "version": thinksafe_jax.__version__,
    }


@contextmanager
def _keeping(
    store: RowStore, what: str, total: int, name: str, log: Log, check_stop: CheckStop
) -> Iterator[Callable[[dict], None]]:
    """A function that keeps one row, shows how far it is and looks for a request to stop."""
    began = time.monotonic()
    rows = tokens = 0
    with Progress(f"evaluate {name}: {what}", total) as bar, RowBuffer(store) as buffer:

        def keep(row: dict) -> None:
            nonlocal rows, tokens
            buffer.add(row)
            rows, tokens = rows + 1, tokens + row.get("tokens", 0)
            bar.advance()
            check_stop()

        yield keep
    facts = {"tokens": tokens} if tokens else {}
    seconds = round(time.monotonic() - began, 3)
    log("evaluate", name=name, doing=what, rows=rows, seconds=seconds, **facts)
