"""Evaluation of one model: one queue over all prompts, then the judge, then the numbers.

    questions ─► responses/*.jsonl ─► verdicts/*.jsonl ─► rows.jsonl ─► <name>.json
                 as they finish       as they are judged   joined        rates with intervals

Responses and verdicts are kept row by row, so an evaluation that was killed goes on where it was;
another judge is asked about the responses that are there.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import thinksafe_jax
from thinksafe_jax.config import EvaluationConfig, SamplingConfig
from thinksafe_jax.data import (
    HARMFUL,
    OVER_REFUSAL,
    REASONING,
    Question,
    Questions,
    fingerprint,
    load_questions,
)
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation.answers.equality import Equality, require_math_verify
from thinksafe_jax.evaluation.scoring import score_rows, summarise
from thinksafe_jax.guards import Exchange, Guard, Verdict, answer_part
from thinksafe_jax.hosts import current
from thinksafe_jax.runs import Part, RowBuffer, RowStore, wait_for_rows
from thinksafe_jax.sampling import Request
from thinksafe_jax.storage import atomic_write, content_hash, prepare_directory, refresh
from thinksafe_jax.terminal import Progress
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN

if TYPE_CHECKING:
    from thinksafe_jax.sampling import Engine
    from thinksafe_jax.tokenizer import ChatTokenizer

Log = Callable[..., None]  # Run.log: log(stage, **values)
CheckStop = Callable[[], None]  # Run.check_stop
Askable = dict[tuple[str, str, int], tuple[Question, Request]]

_log = logging.getLogger(__name__)
_KEY = ("suite", "id", "sample")


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

    Of several processes (`hosts.join`) each answers and judges its part, the first scores all.

    Returns:
        What the JSON file holds: three rates with Wilson intervals, bounds, counts, settings; of
        several processes, nothing but in the first.
    """
    group = current()
    part = Part(group.index, group.count)
    asked = group.in_turn(
        "questions",
        lambda: load_questions(cfg, out_dir.with_name("datasets.json")),
        lambda: refresh(out_dir.parent),
    )
    questions = asked.items
    if cfg.judge != "mini" and any(q.kind == REASONING for q in questions):
        require_math_verify()
    askable, skipped = _askable(questions, cfg, engine, tokenizer)
    answering, judging = _answering(cfg, asked, reasoning), _judging(cfg, guard)
    if group.first:
        answers = content_hash(answering, model_hash)
        follows = {"responses": answers, "verdicts": content_hash(answers, judging)}
        _discard_rows_of_others(out_dir, follows)
    group.barrier(f"{out_dir.name} begins")
    refresh(out_dir)
    responses = RowStore(out_dir / "responses", key=_KEY, writer=part.name)
    verdicts = RowStore(out_dir / "verdicts", key=(*_KEY, "asked_scope"), writer=part.name)
    keeping = partial(_keeping, name=out_dir.name, log=log, check_stop=check_stop)

    def mine(key: tuple) -> bool:
        return f"{key[0]}/{key[1]}" in part

    own = {key: found for key, found in askable.items() if mine(key)}
    _answer(own, engine, tokenizer, responses, keeping)
    wait_for_rows(group, responses, mine, check_stop)
    by_key = {tuple(row[k] for k in _KEY): row for row in responses.read()}
    _judge([by_key[key] for key in own], cfg, guard, verdicts, keeping)
    wait_for_rows(group, verdicts, mine, check_stop)
    if not group.first:
        return {}
    scored = _scored([by_key[key] for key in askable], verdicts, cfg)
    result = summarise(scored) | {"skipped": skipped, "settings": answering | judging}
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in scored]
    atomic_write(out_dir / "rows.jsonl", "".join(lines))
    atomic_write(out_dir.with_name(f"{out_dir.name}.json"), json.dumps(result, indent=2) + "\n")
    return result


def _scored(rows: list[dict], verdicts: RowStore, cfg: EvaluationConfig) -> list[dict]:
    """The rows with their scores; each has its verdicts in the order of `cfg.scopes`."""
    judged: dict[tuple, dict[str, dict]] = {}
    for row in verdicts.read():
        judged.setdefault(tuple(row[k] for k in _KEY), {})[row["asked_scope"]] = row
    in_order = {
        key: {scope: found[scope] for scope in cfg.scopes if scope in found}
        for key, found in judged.items()
    }
    with Equality() as pool:
        return score_rows(rows, in_order, cfg.judge, pool)


def _discard_rows_of_others(out_dir: Path, follows: Mapping[str, str]) -> None:
    """Responses are taken up where the same model was asked the same in the same way; verdicts
    where the same guard was asked about those.

    Args:
        follows: folder -> hash of all that its rows follow from, kept in <folder>.sha256.
    """
    prepare_directory(out_dir)
    for name, inputs in follows.items():
        folder, file = out_dir / name, out_dir / f"{name}.sha256"
        if file.exists() and file.read_text(encoding="utf-8").strip() == inputs:
            continue
        if folder.exists():
            _log.warning("%s: of another model, guard or setting, made anew", folder)
            shutil.rmtree(folder)
        atomic_write(file, f"{inputs}\n")


def _askable(
    questions: list[Question], cfg: EvaluationConfig, engine: "Engine", tokenizer: "ChatTokenizer"
) -> tuple[Askable, dict]:
    """What can be asked, by suite, id and sample, and what cannot, counted by suite and reason.

    Raises:
        InputError: nothing can be asked.
    """
    askable: Askable = {}
    skipped: dict[str, dict[str, int]] = {suite: {} for suite in (HARMFUL, OVER_REFUSAL, REASONING)}
    why: str | None = None
    for question in questions:
        ids = tokenizer.prompt_ids(question.text)
        name, sampling = f"{question.suite}/{question.id}", _sampling(question, cfg)
        requests = [Request(name, ids, sampling, n) for n in range(_samples(question, cfg))]
        empty = not question.prompt.strip()
        why = "empty_prompt" if empty else engine.refuses(requests[0])
        if why is None:
            askable |= {(*question.key, r.sample): (question, r) for r in requests}
            continue
        reason = "empty_prompt" if empty else "too_long"
        counts = skipped.setdefault(question.suite, {})
        counts[reason] = counts.get(reason, 0) + 1
        _log.warning("%s is not evaluated: %s", name, why)
    if questions and not askable:
        raise InputError(
            f"none of {len(questions)} questions can be asked; the last: {why} (lower "
            "evaluation.sampling.max_new_tokens, or raise engine.max_length)"
        )
    return askable, skipped


def _sampling(question: Question, cfg: EvaluationConfig) -> SamplingConfig:
    own = cfg.reasoning_sampling if question.kind == REASONING else None
    return own or cfg.sampling


def _samples(question: Question, cfg: EvaluationConfig) -> int:
    return cfg.samples if question.kind == REASONING else 1


def _answer(
    askable: Askable,
    engine: "Engine",
    tokenizer: "ChatTokenizer",
    store: RowStore,
    keeping: Callable,
) -> None:
    """Sample what has no response yet: all suites in one queue, kept as they finish.

    The questions with the most tokens to come go first, so that no long one is left for the end.
    """
    done = store.keys()
    waiting = {(r.id, r.sample): (q, r) for key, (q, r) in askable.items() if key not in done}
    if not waiting:
        return
    queue = sorted(
        (request for _, request in waiting.values()), key=lambda r: -r.sampling.max_new_tokens
    )
    with keeping(store, "sample", len(waiting)) as keep:
        for completion in engine.generate(queue):
            question, _ = waiting[completion.id, completion.sample]
            row = {"suite": question.suite, "kind": question.kind, "id": question.id}
            row |= {"sample": completion.sample, "prompt": question.prompt}
            if question.answer is not None:
                row |= {"answer": question.answer, "style": question.style}
            if question.cluster:
                row["cluster"] = question.cluster
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
    """Ask the guard about what it has not judged yet, in every scope.

    It sees the original prompt and the part of the response that the scope names. The refusal
    suites are shown to every guard that understands text: some say whether a response refuses. A
    weak guard sees them only where it is itself measured (judge "mini"). Nothing is asked about an
    empty part, as the answer behind a thought that never ended: it is unparsed, not safe.
    """
    done = store.keys()
    waiting = {
        f"{row['suite']}/{row['id']}/{row['sample']}/{scope}": (row, scope)
        for row in rows
        if row["kind"] == HARMFUL
        or (row["kind"] != REASONING and (cfg.judge == "mini" or not guard.weak))
        for scope in cfg.scopes
        if (row["suite"], row["id"], row["sample"], scope) not in done
    }
    if not waiting:
        return
    exchanges = [
        Exchange(key, row["prompt"], scoped(row["response"], scope), _label(row), scope)
        for key, (row, scope) in waiting.items()
    ]
    unasked = [
        Verdict(e.id, "unparsed", None, e.scope, False, guard.name, template=guard.template)
        for e in exchanges
        if not e.response.strip()
    ]
    asked = guard.judge(e for e in exchanges if e.response.strip())
    with keeping(store, "judge", len(waiting)) as keep:
        for verdict in chain(unasked, asked):
            row, scope = waiting[verdict.id]
            names = {"suite": row["suite"], "id": row["id"], "sample": row["sample"]}
            keep({**verdict.row(), **names, "asked_scope": scope})


def _label(row: dict) -> str:
    return "benign" if row["kind"] == OVER_REFUSAL else "harmful"


def scoped(response: str, scope: str) -> str:
    """The part of a response that a scope names: full, answer, or think (without its tags)."""
    if scope == "full":
        return response
    if scope == "answer":
        return answer_part(response)
    before, closed, _ = response.rpartition(THINK_CLOSE)
    reasoning = before if closed else response if THINK_OPEN in response else ""
    return reasoning.partition(THINK_OPEN)[2].strip() or reasoning.strip()


def _answering(cfg: EvaluationConfig, asked: Questions, reasoning: str) -> dict:
    """What was asked, and how: equal in evaluations that can be compared."""
    suites = list(dict.fromkeys(q.suite for q in asked.items))
    return {
        "sampling": asdict(cfg.sampling),
        "reasoning_sampling": asdict(cfg.reasoning_sampling or cfg.sampling),
        "samples": cfg.samples,
        "reasoning": reasoning,
        "reasoning_prompt": cfg.reasoning_prompt,
        "steering": "none",
        "prompts": {s: sum(q.suite == s for q in asked.items) for s in suites},
        "prompts_sha256": fingerprint(asked.items),
        "sources": {name: asdict(source) for name, source in asked.sources.items()},
        "version": thinksafe_jax.__version__,
    }


def _judging(cfg: EvaluationConfig, guard: Guard) -> dict:
    """Who judged what of the answers: equal in evaluations that can be compared."""
    return {
        "scopes": list(cfg.scopes),
        "judge": cfg.judge,
        "guard": {"name": guard.name, "weak": guard.weak},
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
