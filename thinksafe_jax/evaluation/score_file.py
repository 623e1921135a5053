"""Responses that were made elsewhere, scored by the code that `evaluate` uses."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from thinksafe_jax.data import (
    REASONING,
    Row,
    benchmark,
    finish_reason,
    name_cell,
    read_rows,
    text_cell,
    value_cell,
)
from thinksafe_jax.errors import ConfigError, InputError, quoted
from thinksafe_jax.evaluation.answers.equality import Equality
from thinksafe_jax.evaluation.scoring import score_rows, suite_facts
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN

_SCORED = ("id", "sample", "status", "correct", "extracted", "skythought_correct")


def score_responses(path: Path, suite: str, *, style: str = "") -> dict:
    """Accuracy of the responses in a file.

    Args:
        path: JSONL, JSON, CSV or Parquet with id, question, answer, response, and finish_reason or
            stop_reason where known. Rows of one id are samples of one problem. Responses may lack
            the `<think>` that the chat template wrote.
        suite: a reasoning suite, whose way to read answers is used; any other name with `style`.

    Returns:
        accuracy and accuracy_skythought_compat {value, low, high, n}, clustered by id; counts of
        unparsed, truncated and timeout rows; pass_at_k; and `rows` with each verdict.

    Raises:
        ConfigError: the suite is no reasoning suite.
        InputError: a row without response or answer, an unknown finish reason, or one id for two
            questions.
    """
    bench = benchmark(suite, REASONING if style else "")
    if bench.kind != REASONING:
        raise ConfigError(f"--suite {suite} is of kind {bench.kind}; only reasoning is scored here")
    rows = _with_opened_thoughts(list(_responses(path, suite, style or bench.style)))
    if not rows:
        raise InputError(f"{path}: no rows")
    with Equality() as pool:
        scored = score_rows(rows, {}, "guard", pool)
    facts = suite_facts(scored, REASONING).as_dict()
    return {
        "suite": suite,
        "accuracy": facts["rate"],
        "accuracy_skythought_compat": facts["skythought_compat"],
        "skythought_differs": facts["skythought_differs"],
        **{k: facts[k] for k in ("unparsed", "truncated", "timeout", "questions", "pass_at_k")},
        "rows": [{k: r[k] for k in _SCORED} for r in scored],
    }


def _responses(path: Path, suite: str, style: str) -> Iterator[dict]:
    """The rows in the form of RUN/evaluation/<name>/responses."""
    first: dict[str, tuple[str, dict]] = {}  # id -> where it was first, what was asked there
    samples: dict[str, int] = {}
    for row in read_rows(path):
        missing = [k for k in ("answer", "response") if row.values.get(k) is None]
        if missing:
            raise InputError(f"{row.place}: no {' and no '.join(missing)} in the row")
        name = name_cell(row, "id") if "id" in row.values else str(row.number)
        asked = _asked(row)
        place, before = first.setdefault(name, (row.place, asked))
        if differing := [key for key in asked if asked[key] != before[key]]:
            raise InputError(
                f"{row.place}: id {quoted(name)} has another {' and '.join(differing)} than at "
                f"{place}; rows of one id are samples of one problem: give each problem an id of "
                "its own"
            )
        samples[name] = samples.get(name, -1) + 1
        yield {
            "suite": suite,
            "kind": REASONING,
            "id": name,
            "sample": samples[name],
            "prompt": asked["question"],
            "style": style,
            "answer": asked["answer"],
            "response": text_cell(row, "response", "response"),
            "finish_reason": finish_reason(row),
        }


def _asked(row: Row) -> dict[str, str]:
    """The question, "" where the row has none, and its gold answer."""
    question = value_cell(row, "question", "question") if "question" in row.values else ""
    return {"question": question, "answer": value_cell(row, "answer", "gold answer")}


def _with_opened_thoughts(rows: Sequence[dict]) -> list[dict]:
    """The rows with `<think>` where the chat template began a thought that never ended.

    Servers return what follows the prompt. Where the template opens the reasoning (R1-Distill), a
    response has `</think>` alone, and one that was cut in its thought has no tag: it looks like an
    answer. Where most responses are of the first kind, those without a tag are of the second; where
    some are, those that were cut.
    """
    begun = sum(THINK_CLOSE in r["response"] and THINK_OPEN not in r["response"] for r in rows)
    most = 2 * begun > len(rows)

    def never_ended(row: dict) -> bool:
        tagged = THINK_CLOSE in row["response"] or THINK_OPEN in row["response"]
        return not tagged and (most or row["finish_reason"] == "length")

    return [
        row | {"response": THINK_OPEN + row["response"]} if begun and never_ended(row) else row
        for row in rows
    ]
