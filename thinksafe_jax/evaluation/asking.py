"""The model is asked: which questions fit it, and one queue over all of them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinksafe_jax.config import EvaluationConfig, SamplingConfig
from thinksafe_jax.data import LISTS, REASONING, Question
from thinksafe_jax.errors import InputError
from thinksafe_jax.evaluation.journal import Journal
from thinksafe_jax.hosts import Group, shared_queue
from thinksafe_jax.runs import RowStore
from thinksafe_jax.sampling import Completion, Request

if TYPE_CHECKING:
    from thinksafe_jax.sampling import Engine
    from thinksafe_jax.tokenizer import ChatTokenizer

ROW_KEY = ("suite", "id", "sample")
Key = tuple[str, str, int]  # the values of ROW_KEY

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated.

    Attributes:
        engine: the sampler that holds it.
        reasoning: think | none, as `SynthesisConfig.reasoning`; kept with the settings.
        fingerprint: names its weights; responses of other weights are not taken up.
        kv_dtype: as `EngineConfig.kv_dtype`; responses drawn with another are not taken up.
    """

    engine: "Engine"
    tokenizer: "ChatTokenizer"
    reasoning: str
    fingerprint: str = ""
    kv_dtype: str = "model"


@dataclass(frozen=True)
class Asked:
    """A question with one of the requests that put it."""

    question: Question
    request: Request

    @property
    def key(self) -> Key:
        return (*self.question.key, self.request.sample)


def askable(
    questions: Sequence[Question], cfg: EvaluationConfig, subject: Subject
) -> tuple[dict[Key, Asked], dict[str, dict[str, int]]]:
    """What can be asked, and what cannot, counted by suite and reason (empty_prompt, too_long).

    Raises:
        InputError: nothing can be asked.
    """
    asked: dict[Key, Asked] = {}
    skipped: dict[str, dict[str, int]] = {suite: {} for suite in LISTS}
    why: str | None = None
    prefixes = _prefix_ids(questions, subject)
    for question in questions:
        requests = _requests(question, prefixes[question.answer_prefix], cfg, subject)
        empty = not question.prompt.strip()
        why = "empty_prompt" if empty else subject.engine.refuses(requests[0])
        if why is None:
            asked |= {(item := Asked(question, request)).key: item for request in requests}
            continue
        counts = skipped.setdefault(question.suite, {})
        reason = "empty_prompt" if empty else "too_long"
        counts[reason] = counts.get(reason, 0) + 1
        _log.warning("%s is not evaluated: %s", requests[0].id, why)
    if questions and not asked:
        raise InputError(
            f"none of {len(questions)} questions can be asked; the last: {why} (lower "
            "evaluation.sampling.max_new_tokens, or raise engine.max_length)"
        )
    return asked, skipped


def _requests(
    question: Question, prefix: list[int], cfg: EvaluationConfig, subject: Subject
) -> list[Request]:
    reasoning = question.kind == REASONING
    sampling: SamplingConfig = (cfg.reasoning_sampling if reasoning else None) or cfg.sampling
    ids = subject.tokenizer.prompt_ids(question.text) + prefix
    name = f"{question.suite}/{question.id}"
    samples = range(cfg.samples if reasoning else 1)
    return [Request(name, ids, sampling, n, kind=question.suite) for n in samples]


def _prefix_ids(questions: Iterable[Question], subject: Subject) -> dict[str, list[int]]:
    """What answers begin with, as the model itself would have written it: {prefix: tokens}."""
    ids = subject.tokenizer.response_ids
    prefixes = {question.answer_prefix for question in questions}
    return {prefix: ids(prefix, ended=False) if prefix else [] for prefix in prefixes}


def answer(
    asked: Mapping[Key, Asked],
    subject: Subject,
    store: RowStore,
    journal: Journal,
    group: Group,
    earlier: RowStore | None = None,
) -> None:
    """Sample what has no response yet: all suites in one queue, kept as they finish.

    What is likely to take longest goes first, so that no long answer is left for the end. Several
    processes share the queue; the first says what is missing, and in which order.

    Args:
        asked: the same in all processes.
        earlier: responses of another model to the same questions, by which lengths are guessed.
    """
    items = list(asked.items())
    order = _longest_first(items, store, earlier) if group.first else []
    waiting = [items[n][1] for n in group.decide(f"questions of {journal.name}", order)]
    if not waiting:
        return
    questions = {(item.request.id, item.request.sample): item.question for item in waiting}
    prefixes = _prefix_ids(questions.values(), subject)
    requests = [item.request for item in waiting]
    name, expected = f"answers of {journal.name}", -(-len(requests) // group.count)
    with journal.keeping(store, "sample", expected) as keep:
        queue = shared_queue(group, name, requests, subject.engine.slots)
        for completion in subject.engine.generate(queue):
            question = questions[completion.id, completion.sample]
            ids = [*prefixes[question.answer_prefix], *completion.token_ids]
            keep(_row(question, completion, subject.tokenizer.decode(ids)))


def _longest_first(
    items: Sequence[tuple[Key, Asked]], store: RowStore, earlier: RowStore | None
) -> list[int]:
    """Which items have no response yet: by the most tokens that they may have, then by a guess."""
    done = store.keys()
    rows = earlier.rows() if earlier is not None else ()
    lengths = {tuple(row[name] for name in ROW_KEY): row.get("tokens", 0) for row in rows}

    def guess(n: int) -> tuple[int, int]:
        key, item = items[n]
        return item.request.sampling.max_new_tokens, lengths.get(key, 0)

    missing = [n for n, (key, _) in enumerate(items) if key not in done]
    return sorted(missing, key=guess, reverse=True)


def _row(question: Question, completion: Completion, response: str) -> dict:
    """The row of responses/; its keys and their order are those of every run directory."""
    row = {"suite": question.suite, "kind": question.kind, "id": question.id}
    row |= {"sample": completion.sample, "prompt": question.prompt}
    if question.answer is not None:
        row |= {"answer": question.answer, "style": question.style}
    if question.cluster:
        row["cluster"] = question.cluster
    return row | {
        "response": response,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids),
        "source": question.source,
    }
