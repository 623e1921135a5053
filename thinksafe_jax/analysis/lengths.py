"""What a dataset's responses look like: lengths, refusals, how they begin."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thinksafe_jax.guards import answer_part, is_refusal
from thinksafe_jax.intervals import wilson
from thinksafe_jax.tokenizer import THINK_CLOSE, THINK_OPEN, ChatTokenizer

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_FIRST = 5  # most common beginnings shown
_LONGEST = 24  # characters of one


def lengths(tokenizer: ChatTokenizer, rows: Sequence[Mapping[str, Any]]) -> dict:
    """Lengths in tokens, refusal share of the answer part, and first words, by label.

    Refusals are read by phrases (guards.matchers.refusal_match) from the answer alone: a model may
    think "I cannot" and comply.

    Args:
        rows: instruction, response, prompt_label.

    Returns:
        {groups: {label: {rows, tokens, reasoning, answer (each mean and quantiles), refusals
        {value, low, high, n}, no_answer, first_reasoning, first_answer [[text, share]],
        first_answer_entropy (nats)}}}.
    """
    labels = [*dict.fromkeys(str(row.get("prompt_label") or "unlabelled") for row in rows), "all"]
    return {
        "groups": {
            label: _group(
                tokenizer,
                [r for r in rows if label in (str(r.get("prompt_label") or "unlabelled"), "all")],
            )
            for label in labels
        }
    }


def _group(tokenizer: ChatTokenizer, rows: Sequence[Mapping[str, Any]]) -> dict:
    answers = [answer_part(row["response"]) for row in rows]
    thoughts = [_reasoning(row["response"]) for row in rows]
    counts = [
        [len(tokenizer.encode_text(text)) for text in texts]
        for texts in ([row["response"] for row in rows], thoughts, answers)
    ]
    read = [text for text in answers if text]
    firsts = Counter(_first(text) for text in read)
    shares = np.array(list(firsts.values()), float) / max(1, len(read))
    return {
        "rows": len(rows),
        **{
            name: _spread(values)
            for name, values in zip(("tokens", "reasoning", "answer"), counts, strict=True)
        },
        "refusals": wilson(sum(map(is_refusal, read)), len(read)).as_dict(),
        "no_answer": len(answers) - len(read),
        "first_reasoning": _common(Counter(_first(text) for text in thoughts if text)),
        "first_answer": _common(firsts),
        "first_answer_entropy": float(-(shares * np.log(shares)).sum()) if read else None,
    }


def _reasoning(response: str) -> str:
    before, closed, _ = response.rpartition(THINK_CLOSE)
    return before.replace(THINK_OPEN, "", 1).strip() if closed else ""


def _first(text: str) -> str:
    """The first word, what a model decides first, whatever its tokenizer cuts.

    Where words have no spaces between them it is their beginning.
    """
    return text.split(maxsplit=1)[0][:_LONGEST] if text.split() else ""


def _common(counts: Counter[str]) -> list[list]:
    total = max(1, counts.total())
    return [[word, n / total] for word, n in counts.most_common(_FIRST)]


def _spread(values: Sequence[int]) -> dict:
    if not values:
        return {"mean": None, "quantiles": {}}
    quantiles = np.quantile(values, _QUANTILES)
    return {
        "mean": float(np.mean(values)),
        "quantiles": {f"{q:g}": float(v) for q, v in zip(_QUANTILES, quantiles, strict=True)},
    }
